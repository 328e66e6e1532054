"""`tunesmith report`: write the report of a run anew from its files."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith.cli.output import Json, RunArgument, RunsDir, output


def report(
    run: RunArgument,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    runs_dir: RunsDir = "runs",
    as_json: Json = False,
) -> None:
    """Write the report of a run, one HTML file that opens anywhere, and say where it is.

    `train` writes it already; this makes it anew from the files of the run directory.

    \b
    Examples:
      tunesmith report my-task-1
      tunesmith report my-task-1 --open
    """
    with output(as_json) as out:
        from tunesmith import api
        from tunesmith.cli.contracts.files import ReportDocument
        from tunesmith.evidence.report import write_report

        opened = api.open_run(run, runs_dir=runs_dir)
        path = write_report(opened.path)
        out.emit(ReportDocument(run=str(opened.path), report=str(path)))
        out.line(str(path))
    if show:
        typer.launch(str(path))
