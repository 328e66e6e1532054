"""`tunesmith init`: a folder to start from: a commented recipe, sample data, what to do next."""

from __future__ import annotations

import json
import shlex
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from tunesmith.cli.output import Json, output
from tunesmith.errors import InputError, suggest

_MODELS = {
    "instruct": "smollm2-135m-instruct",
    "language_modeling": "smollm2-135m-instruct",
    "classification": "minilm-l6",
    "masked_language_modeling": "distilbert-base-uncased",
    "multi_label": "minilm-l6",
    "regression": "minilm-l6",
    "reranking": "minilm-l6",
    "tagging": "minilm-l6",
    "extraction": "minilm-l6",
    "embedding": "minilm-l6",
}

_BORROWED = {"multitask": {"requests.jsonl": "instruct", "topics.jsonl": "classification"}}
"""Samples of a starter that are those of others: the file's name here, and the task."""


def init(
    directory: Annotated[
        Path, typer.Argument(help="The folder to make; it must be new or empty.", metavar="DIR")
    ],
    task: Annotated[
        str,
        typer.Option(
            help="What is to be learnt: one of the tasks.",
            metavar="TASK",
        ),
    ] = "instruct",
    model: Annotated[
        str | None,
        typer.Option(help="Model to start from; else one that suits the task.", metavar="MODEL"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a folder with a commented recipe and sample data, ready to train.

    \b
    Examples:
      tunesmith init polite
      tunesmith init tickets --task classification
      tunesmith init prose --task language_modeling --model Qwen/Qwen3-0.6B
    """
    with output(as_json) as out:
        from tunesmith.cli.contracts.files import InitDocument

        made = write_starter(directory, task, model or _default_model(task))
        recipe = shlex.quote(str(directory / "recipe.yaml"))
        steps = [
            f"tunesmith check {recipe} --show 2",
            f"tunesmith train {recipe}",
            f"tunesmith recipe show {recipe}",
        ]
        out.emit(
            InitDocument(folder=str(directory), files=[path.name for path in made], next=steps)
        )
        out.line(f"Made {directory}: {', '.join(path.name for path in made)}")
        out.line("Next:")
        for step, does in zip(
            steps,
            ("see what the model will learn", "train, and measure", "every option and its default"),
            strict=True,
        ):
            out.line(f"  {step}    # {does}")


def starters() -> list[str]:
    """Return the tasks for which there is a starter."""
    return sorted(folder.name for folder in _root().iterdir() if folder.is_dir())


def write_starter(directory: Path, task: str, model: str) -> list[Path]:
    """Write the starter of `task` into a new or empty folder; return the files.

    Raises:
        InputError: there is no such starter, or the folder holds something already.
    """
    if task not in starters():
        raise InputError(
            f"There is no starter for a task {task!r}.",
            where="--task",
            fix=suggest(task, starters()),
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(
            "This is not an empty folder.", where=str(directory), fix="Name a new one."
        )
    source = _root().joinpath(task)
    recipe = Template(source.joinpath("recipe.yaml").read_text(encoding="utf-8"))
    contents = {
        "recipe.yaml": recipe.substitute(model=_quoted(model)),
        **{
            name: _root().joinpath(other, "train.jsonl").read_text(encoding="utf-8")
            for name, other in _BORROWED.get(task, {"train.jsonl": task}).items()
        },
        "recipe.schema.json": _schema(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in contents]


def _root() -> Traversable:
    return files("tunesmith.cli").joinpath("starter")


def _default_model(task: str) -> str:
    return _MODELS.get(task, _MODELS["instruct"])


def _quoted(model: str) -> str:
    """Write a name so that YAML reads it back, in quotes only where it must be."""
    import yaml

    from tunesmith.recipes.document import RecipeDumper

    written: str = yaml.dump({"model": model}, Dumper=RecipeDumper, allow_unicode=True, width=10**6)
    return written.removeprefix("model: ").rstrip("\n")


def _schema() -> str:
    from tunesmith.recipes.json_schema import recipe_schema

    return json.dumps(recipe_schema(), indent=2) + "\n"
