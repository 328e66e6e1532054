"""A real encoder learns what is named in the starter's (synthetic) orders; others find it too."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import pipeline

from tunesmith import api
from tunesmith.cli.init import write_starter
from tunesmith.console import Console

TEXT = "Nora Lindqvist from Osaka ordered a wall clock."


@pytest.mark.real_model
def test_minilm_learns_the_starter_and_transformers_alone_finds_the_same(
    tmp_path: Path, minilm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_starter(tmp_path / "new", "tagging", "minilm-l6")
    run = api.train(
        tmp_path / "new" / "recipe.yaml", runs_dir=tmp_path / "runs", console=Console(quiet=True)
    )
    assert run.verdict == "improved"
    assert run.metrics["metrics"]["f1"]["after"] > 0.8
    (answer,) = run.predict([TEXT])
    find = pipeline("token-classification", str(run.path / "model"), aggregation_strategy="first")
    theirs = [(found["start"], found["end"], found["entity_group"]) for found in find(TEXT)]
    assert [(s.start, s.end, s.label) for s in answer.spans] == theirs
    assert answer.text == "Nora Lindqvist [PERSON]; Osaka [CITY]; wall clock [GOODS]"
    report = run.report.read_text()
    assert "[CITY]" in report
    assert "f1[PERSON]" in report
