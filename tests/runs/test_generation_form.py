"""The record of a run says in which form its answers were generated; a slow one is said aloud."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.acceptance.jobs import ANSWERS, lines
from tests.tiny import tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.engine.generation import COMPILED, PADDED


def form(tmp_path: Path, family: str, generate: int) -> str | None:
    (tmp_path / "train.jsonl").write_text(lines(ANSWERS))
    recipe = {
        "model": str(tiny_model_folder(tmp_path, family)),
        "task": {"name": "instruct", "max_new_tokens": 4},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "technique": {"name": "lora", "rank": 2},
        "training": {"max_steps": 1, "batch_size": 4, "precision": "float32"},
        "evaluation": {"generate": generate, "probe": False, "resamples": 100},
    }
    run = api.train(recipe, name="x", runs_dir=tmp_path / "runs", console=Console())
    found: str | None = json.loads((run.path / "record.json").read_text())["generation"]
    return found


@pytest.mark.parametrize(("family", "expected"), [("llama", COMPILED), ("falcon", PADDED)])
def test_the_form_is_recorded_and_a_padded_one_is_said(
    tmp_path: Path, family: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert form(tmp_path, family, generate=2) == expected
    said = " ".join(capsys.readouterr().err.split())
    assert ("this architecture allows no faster form" in said) == (expected == PADDED)


def test_nothing_is_tried_out_where_nothing_is_generated(tmp_path: Path) -> None:
    assert form(tmp_path, "llama", generate=0) is None
