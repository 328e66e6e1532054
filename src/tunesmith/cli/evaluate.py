"""`tunesmith evaluate`: a run's model against its base, on its test set or on other records."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith.cli.output import AsMember, Json, RunArgument, RunsDir, output
from tunesmith.cli.verdict import outcome, show_verdict


def evaluate(
    run: RunArgument,
    data: Annotated[
        str | None,
        typer.Option(help="Records to measure on, in place of the run's test set.", metavar="FILE"),
    ] = None,
    member: AsMember = None,
    runs_dir: RunsDir = "runs",
    as_json: Json = False,
) -> None:
    """Measure a run's model against the model that it came from.

    The same records, the same batches and the same metrics for both; the verdict is a paired
    bootstrap interval. Records given with --data must have the format that the run learnt from.

    \b
    Examples:
      tunesmith evaluate my-task-1
      tunesmith evaluate my-task-1 --data fresh.jsonl
      tunesmith evaluate my-task-1 --json
      tunesmith evaluate support-1 --as mood
    """
    with output(as_json) as out:
        from tunesmith import api
        from tunesmith.cli.contracts.outcome import EvaluateDocument

        opened = api.open_run(run, runs_dir=runs_dir).of(member)
        evaluation = api.evaluate(opened, data, console=out.console)
        out.emit(
            EvaluateDocument.model_validate(
                {**outcome(opened.path, evaluation.metrics, opened.summary), "data": data}
            )
        )
        show_verdict(evaluation.metrics, out.result)
