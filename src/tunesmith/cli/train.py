"""`tunesmith train`: recipe in, model with evidence out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.output import Json, Output, Overrides, RunsDir, output
from tunesmith.cli.verdict import outcome, show_verdict
from tunesmith.errors import InputError
from tunesmith.registry import TASKS

if TYPE_CHECKING:
    from tunesmith.runs.run import Run


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="The recipe, a YAML file. Not needed with --resume.", metavar="RECIPE"),
    ] = None,
    overrides: Overrides = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the run; else made from the recipe's place.", metavar="RUN"),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Go on with a run that was stopped, from its last checkpoint.", metavar="RUN"
        ),
    ] = None,
    runs_dir: RunsDir = "runs",
    as_json: Json = False,
) -> None:
    """Fine-tune as a recipe says, measure before and after, and write a report.

    Everything of the run lies in one directory: the recipe with every default, a line for each
    step, checkpoints, the model, the evaluation and report.html. Ctrl-C finishes the step, saves
    it, and says how to go on.

    \b
    Examples:
      tunesmith train recipe.yaml
      tunesmith train recipe.yaml --set training.epochs=3 --set technique.rank=32
      tunesmith train recipe.yaml --set "technique={name: layers, last: 2}" --name two-layers
      tunesmith train --resume two-layers
      tunesmith train recipe.yaml --json > result.json
    """
    if recipe is None and resume is None:
        raise typer.BadParameter("Give a recipe, or --resume RUN.", param_hint="RECIPE")
    if resume is not None and name is not None:
        raise typer.BadParameter("A resumed run keeps its name.", param_hint="--name")
    if recipe is None and overrides:
        raise typer.BadParameter("A resumed run keeps its options.", param_hint="--set")
    with output(as_json) as out:
        from tunesmith import api
        from tunesmith.cli.contracts.outcome import TrainDocument

        if resume is None:
            assert recipe is not None  # one of the two was given
            run = api.train(
                recipe, overrides=overrides or (), name=name, runs_dir=runs_dir, console=out.console
            )
        else:
            if recipe is not None:
                _check_same(recipe, overrides or [], api.open_run(resume, runs_dir=runs_dir).path)
            run = api.resume(resume, runs_dir=runs_dir, console=out.console)
        out.emit(
            TrainDocument.model_validate(
                {**outcome(run.path, run.metrics, run.summary), "report": str(run.report)}
            )
        )
        _show(run, out)


def _check_same(recipe: str, overrides: list[str], run: Path) -> None:
    """Refuse to go on with another recipe than the run began with."""
    from tunesmith.recipes.load import load_recipe

    asked = load_recipe(recipe, overrides).model_dump()
    began = load_recipe(run / "recipe.yaml").model_dump()
    changed = [section for section in asked if asked[section] != began[section]]
    if changed:
        raise InputError(
            f"The run began with another recipe: {', '.join(changed)} changed since.",
            where=str(run),
            fix="Resume without the recipe, or train anew under another --name.",
        )


def _show(run: Run, out: Output) -> None:
    show_verdict(run.metrics, out.result)
    path = shlex.quote(str(run.path))
    members = list(run.metrics.get("members", {}))
    writes = not members and TASKS.get(run.summary["task"]).head == "causal_lm"
    try_it = "chat" if writes else "predict"
    path += f" --as {members[0]}" if members else ""
    out.line("")
    out.line(f"Report:  {run.report}")
    out.line(f"Model:   {run.path / 'model'}")
    out.line(f"Try it:  tunesmith {try_it} {path}" + (" TEXT" if try_it == "predict" else ""))
