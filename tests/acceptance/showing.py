"""What a user sees of a recipe: before training, in the run, and of its result.

Each function takes a recipe and a folder for runs; what it gives is the same for the same recipe.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tunesmith import api
from tunesmith.console import Console
from tunesmith.engine.engine import Engine
from tunesmith.errors import DataError, RecipeError
from tunesmith.recipes.load import parse_recipe
from tunesmith.runs.prepare import prepare

SILENT = Console(quiet=True)


def checked(recipe: dict[str, Any], runs: Path) -> dict[str, Any]:
    """What `check` says, but for the time, which is never the same twice."""
    return asdict(api.check(recipe, show=2, console=SILENT)) | {"seconds": None}


def refusal(recipe: dict[str, Any], runs: Path) -> str | None:
    """Why the recipe is refused, or None."""
    try:
        prepare(parse_recipe(recipe), SILENT)
    except RecipeError as error:
        return error.what
    return None


def refused_or_counted(recipe: dict[str, Any], runs: Path) -> str | int:
    """Why the data is refused, or how many records are left out."""
    try:
        return len(api.check(recipe, console=SILENT).dropped)
    except DataError as error:
        return error.what


def refused_data(recipe: dict[str, Any], runs: Path) -> str | None:
    """Why the data is refused, or None."""
    try:
        prepare(parse_recipe(recipe), SILENT)
    except DataError as error:
        return error.what
    return None


def steps(recipe: dict[str, Any], runs: Path) -> int:
    """How many steps there are."""
    return len(prepare(parse_recipe(recipe), SILENT).plan())


def held_out(recipe: dict[str, Any], runs: Path) -> list[str]:
    """Which records are kept for the test."""
    return prepare(parse_recipe(recipe), SILENT).test.data.origins


def passes(recipe: dict[str, Any], runs: Path) -> list[int]:
    """How many forward and backward passes each step takes."""
    return [len(list(step)) for step in prepare(parse_recipe(recipe), SILENT).plan()]


def trained(recipe: dict[str, Any], runs: Path) -> api.Run:
    return api.train(recipe, runs_dir=runs, console=SILENT)


def events(recipe: dict[str, Any], runs: Path) -> list[dict[str, Any]]:
    """What happened at each step, but for time and memory."""
    path = trained(recipe, runs).path / "events.jsonl"
    seen = ("step", "loss", "learning_rate", "gradient_norm", "validation", "strength")
    return [
        {name: event.get(name) for name in seen}
        for event in map(json.loads, path.read_text().splitlines())
    ]


def result(recipe: dict[str, Any], runs: Path) -> str:
    """The weights that a run ends with."""
    folder = trained(recipe, runs).path / "model"
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def record(recipe: dict[str, Any], runs: Path) -> dict[str, Any]:
    """What the run says that it began with."""
    whole = json.loads((trained(recipe, runs).path / "record.json").read_text())
    return {name: whole[name] for name in ("task", "packed", "dtype", "frozen", "initial_digest")}


def metrics(recipe: dict[str, Any], runs: Path) -> dict[str, Any]:
    """The comparison of before and after."""
    return trained(recipe, runs).metrics


def said(recipe: dict[str, Any], runs: Path) -> str:
    """What the report says of the technique."""
    summary = json.loads((trained(recipe, runs).path / "summary.json").read_text())
    return str(summary["technique_facts"])


def operated(recipe: dict[str, Any], runs: Path) -> list[str]:
    """What the run says was changed of the model."""
    return json.loads((trained(recipe, runs).path / "record.json").read_text())["surgery"]


def checkpoints(recipe: dict[str, Any], runs: Path) -> list[str]:
    """Which checkpoints there are at the end."""
    return sorted(p.name for p in (trained(recipe, runs).path / "checkpoints").glob("step-*"))


def answer(recipe: dict[str, Any], runs: Path) -> str:
    """What the fine-tuned model says."""
    return trained(recipe, runs).predict(["The apple"])[0].text


def generated_with(recipe: dict[str, Any], runs: Path) -> str:
    """The generation settings that the result has for whoever loads it."""
    return (trained(recipe, runs).path / "model" / "generation_config.json").read_text()


def scores(recipe: dict[str, Any], runs: Path) -> str:
    """What each record scored after training."""
    return (trained(recipe, runs).path / "evaluation" / "after.jsonl").read_text()


def replies(recipe: dict[str, Any], runs: Path) -> str:
    """What the fine-tuned model says to a question on a text."""
    asked = {"question": "Whom?", "context": "The apple met the winter."}
    return trained(recipe, runs).predict([asked])[0].text


def batches(recipe: dict[str, Any], runs: Path) -> int:
    """How many batches are computed without learning."""
    count = 0
    forward = Engine.forward

    def counted(*given: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return forward(*given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "forward", counted)
        trained(recipe, runs)
    return count
