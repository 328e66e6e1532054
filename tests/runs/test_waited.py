"""How long training waited for its records stands wherever its speed does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.acceptance.jobs import CLASSES, lines
from tests.tiny import tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.training.feed import Feed


def test_the_time_waited_is_in_events_summary_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = Feed.take
    monkeypatch.setattr(Feed, "take", lambda feed, n: (stock(feed, n)[0], 0.25))
    monkeypatch.setattr("tunesmith.runs.result.verify_saved", lambda *given: 0.0)
    (tmp_path / "train.jsonl").write_text(lines(CLASSES))
    recipe = {
        "model": str(tiny_model_folder(tmp_path, "bert")),
        "task": "classification",
        "data": {"train": str(tmp_path / "train.jsonl")},
        "technique": "full",
        "training": {"max_steps": 2, "batch_size": 4},
        "evaluation": {"probe": False, "resamples": 100},
    }
    run = api.train(recipe, runs_dir=tmp_path / "runs", console=Console(quiet=True))
    events = [json.loads(line) for line in (run.path / "events.jsonl").open()]
    assert [event["waited"] for event in events] == [0.25, 0.25]
    assert run.summary["waited"] == pytest.approx(0.5 / run.summary["seconds"])
    assert "Waited for records" in run.report.read_text()
