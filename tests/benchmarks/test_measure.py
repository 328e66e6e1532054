"""The harness: sides as fresh processes, in turns, with what went wrong written down."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers import measure
from benchmarks.peers.environments import Environment
from benchmarks.peers.measure import of_marks, run_rounds, run_side
from benchmarks.peers.sides import Side

HERE = Environment("here", sys.executable)
REPORT = Path(measure.RUNNERS / "report.py").read_text()
FINISHES = """
from report import start
job, settings, out, report = start()
for tokens in (10, 20, 30):
    report.batch(tokens, tokens // 2)
report.trained()
(out / "model").mkdir()
report.saved()
"""
FAILS = "from report import start\nstart()[3].batch(10, 5)\nraise RuntimeError('no such device')"
SLEEPS = "from report import start\nimport time\nstart()[3].batch(7, 3)\ntime.sleep(60)"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    runners = tmp_path / "runners"
    runners.mkdir()
    scripts = {"report": REPORT, "finishes": FINISHES, "fails": FAILS, "sleeps": SLEEPS}
    for name, text in scripts.items():
        (runners / f"{name}.py").write_text(text)
    monkeypatch.setattr(measure, "RUNNERS", runners)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "job.json").write_text("{}")
    return tmp_path / "job"


def side(runner: str, **changes: Any) -> Side:
    return Side(runner, runner.title(), "here", runner, **changes)


def test_a_side_that_finishes_tells_time_memory_tokens_and_targets(job: Path) -> None:
    found = run_side(side("finishes"), HERE, job, job.parent / "out", timeout=30)
    assert found["status"] == "finished"
    assert (found["tokens"], found["targets"], found["batches"]) == (60, 30, 3)
    assert 0 < found["seconds_to_first_batch"] < found["seconds_to_finished"] < 30
    assert found["peak_memory_bytes"] > 1 << 20


def test_a_side_that_fails_keeps_its_last_words_and_what_it_reached(job: Path) -> None:
    found = run_side(side("fails"), HERE, job, job.parent / "out", timeout=30)
    assert found["status"] == "failed"
    assert found["error"].endswith("RuntimeError: no such device")
    assert found["tokens"] == 10
    assert "seconds_to_finished" not in found


def test_a_side_that_crashes_says_by_which_signal(job: Path) -> None:
    (measure.RUNNERS / "fails.py").write_text("import os\nos.kill(os.getpid(), 11)")
    found = run_side(side("fails"), HERE, job, job.parent / "out", timeout=30)
    assert found["status"] == "failed"
    assert found["error"].endswith("ended by SIGSEGV")


def test_a_side_that_takes_too_long_is_stopped_and_says_what_it_reached(job: Path) -> None:
    found = run_side(side("sleeps"), HERE, job, job.parent / "out", timeout=1)
    assert found["status"] == "timed out"
    assert 1 <= found["stopped_after_seconds"] < 10
    assert (found["tokens"], found["batches"]) == (7, 1)


def test_a_peer_that_did_not_install_is_not_run_and_says_why(job: Path) -> None:
    missing = Environment("here", None, failure="No matching distribution found")
    found = run_side(side("finishes"), missing, job, job.parent / "out", timeout=30)
    assert found == {"status": "not installed", "error": "No matching distribution found"}


def test_rounds_turn_the_order_round_and_do_not_repeat_what_failed(job: Path) -> None:
    scored = []

    def score(outs: Any) -> dict[str, dict[str, float]]:
        scored.append([out.name for out in outs])
        return {out.name: {"held_out_loss": 1.5} for out in outs}

    sides = [side("finishes"), side("fails")]
    rounds = list(
        run_rounds(sides, {"here": HERE}, job, job.parent / "s", rounds=2, timeout=30, score=score)
    )
    told = [[(o["side"], o["status"]) for o in outcomes] for outcomes in rounds]
    assert told[0] == [("finishes", "finished"), ("fails", "failed")]
    assert told[1] == [("fails", "not repeated"), ("finishes", "finished")]
    assert scored == [["finishes"], ["finishes"]]
    assert rounds[0][0]["held_out_loss"] == 1.5
    assert not (job.parent / "s" / "finishes").exists()


def test_only_the_stage_that_trains_is_timed(job: Path) -> None:
    slow = FINISHES.replace("job,", "import sys, time\nif sys.argv[4] != 'train':\n"
                            "    time.sleep(2)\n    raise SystemExit\njob,")  # fmt: skip
    (measure.RUNNERS / "finishes.py").write_text(slow)
    three = side("finishes", stages=("convert", "train", "restore"))
    found = run_side(three, HERE, job, job.parent / "out", timeout=30)
    assert found["status"] == "finished"
    assert found["seconds_to_finished"] < 2


def test_steady_speed_leaves_out_the_first_micro_batch() -> None:
    marks: list[dict[str, Any]] = [
        {"at": 0.0, "event": "batch", "tokens": 1000, "targets": 0},
        {"at": 90.0, "event": "batch", "tokens": 20, "targets": 0},
        {"at": 91.0, "event": "batch", "tokens": 40, "targets": 0},
        {"at": 93.0, "event": "trained"},
    ]
    ended = measure.Ended(0, 0.0, 95.0, 1)
    assert of_marks(marks, ended)["tokens_per_second"] == pytest.approx(60 / 3)
    cut_off = of_marks(marks[:3], measure.Ended(None, 0.0, 95.0, 1))
    assert cut_off["tokens_per_second"] == pytest.approx(20 / 1)
