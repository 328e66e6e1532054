"""A run that fills in words: what is hidden and measured, also over an interruption."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.interrupting import stopping_at
from tests.tiny import tiny_model_folder

from tunesmith.console import Console
from tunesmith.runs.run import Run
from tunesmith.runs.train import resume, train
from tunesmith.training.guards import Interrupted

SILENT = Console(quiet=True)
TEXTS = [{"text": f"The {a} met the {b} by the river."} for a in ("cat", "dog", "owl", "fox")
         for b in ("king", "queen", "smith", "child", "judge")]  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)
    lines = [json.dumps(row) + "\n" for row in TEXTS]
    (tmp_path / "train.jsonl").write_text("".join(lines[:16]))
    (tmp_path / "test.jsonl").write_text("".join(lines[16:]))
    return {
        "model": str(tiny_model_folder(tmp_path, "masked-bert", dropout=0.1)),
        "task": "masked_language_modeling",
        "data": {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")},
        "technique": "full",
        "training": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "checkpoint_every": 1},
        "evaluation": {"probe": False, "resamples": 100},
    }


def weights(run: Run) -> dict[str, Any]:
    (file,) = run.folder.model.glob("*.safetensors")
    return load_file(file)


def test_a_run_that_was_stopped_hides_what_it_would_have_hidden(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    whole = train(recipe, runs_dir=tmp_path, name="whole", console=SILENT)
    with stopping_at(5), pytest.raises(Interrupted):  # in the second epoch
        train(recipe, runs_dir=tmp_path, name="stopped", console=SILENT)
    stopped = resume("stopped", runs_dir=tmp_path, console=SILENT)
    ours, theirs = weights(stopped), weights(whole)
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert stopped.metrics == whole.metrics


def test_what_is_measured_does_not_depend_on_the_seed_of_training(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    found = []
    for seed in (1, 2):
        recipe["training"] |= {"seed": seed, "max_steps": 1, "epochs": None}
        run = train(recipe, runs_dir=tmp_path, name=f"seed-{seed}", console=SILENT)
        found.append(run.metrics["metrics"]["log_likelihood"])
    assert found[0]["before"] == found[1]["before"]
    assert found[0]["after"] != found[1]["after"]


def test_a_frozen_layer_is_not_kept_as_every_epoch_sees_other_tokens(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    run = train(
        recipe | {"technique": {"name": "layers", "last": 1}},
        runs_dir=tmp_path, name="layers", console=SILENT,
    )  # fmt: skip
    frozen = json.loads((run.path / "record.json").read_text())["frozen"]
    assert frozen["refused"] == "every epoch sees other tokens"


@pytest.mark.parametrize("name", ["kl", "ewc", "replay"])
def test_what_it_knew_can_be_held_on_to(name: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    old = {} if name == "kl" else {"data": [str(tmp_path / "old.jsonl")]}
    rows = [json.dumps({"text": f"Once {row['text']}"}) + "\n" for row in TEXTS]
    (tmp_path / "old.jsonl").write_text("".join(rows))
    recipe["retain"] = [{"name": name, **old}]
    run = train(recipe, runs_dir=tmp_path, name=name, console=SILENT)
    terms = [json.loads(line)["terms"] for line in run.folder.events.read_text().splitlines()]
    held = {"kl": "kl_to_base", "ewc": "ewc"}.get(name)
    assert all(isfinite(sum(step.values())) for step in terms)
    assert held is None or terms[-1][held] > 0
