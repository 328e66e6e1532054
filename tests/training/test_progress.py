"""How fast training is, and how long it will take: counted from this process's steps alone."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console as RichConsole

from tunesmith.console import Bar
from tunesmith.training.checkpoints import Progress
from tunesmith.training.loop import Loop


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that a test turns."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("tunesmith.console.time.monotonic", lambda: clock.now)
    return clock


def said(done: int, clock: SimpleNamespace) -> str:
    out = io.StringIO()
    with Bar(RichConsole(file=out), "train", 100, done) as bar:
        clock.now += 20.0
        bar.advance(2, "fine")
    return out.getvalue()


def test_the_time_left_is_told_from_the_steps_of_this_process(clock) -> None:
    assert "train 2/100  eta 980 s  fine" in said(0, clock)
    assert "train 92/100  eta 80 s  fine" in said(90, clock)


def test_a_bar_that_did_not_move_says_nothing(clock) -> None:
    out = io.StringIO()
    with Bar(RichConsole(file=out), "train", 100, 100):
        pass
    assert out.getvalue() == ""


def test_the_speed_is_that_of_the_steps_of_this_process() -> None:
    before = Progress(step=4, tokens=40_000, seconds=1.0, initial_digest="x")
    engine, rest = SimpleNamespace(), [None] * 5
    loop = Loop(engine, *rest, SimpleNamespace(), progress=before)
    loop.progress.tokens += 300
    loop.progress.seconds += 2.0
    assert loop._speed() == "150 tokens/s"


def test_what_a_run_took_counts_every_process() -> None:
    earlier = Progress(tokens=100, seconds=1.0, flops=8.0, possible_flops=10.0)
    now = Progress(tokens=500, seconds=3.0, flops=12.0, possible_flops=20.0)
    here = now.since(earlier)
    assert (here.tokens, here.seconds, here.mfu) == (400, 2.0, 0.4)
    assert now.mfu == 0.6
