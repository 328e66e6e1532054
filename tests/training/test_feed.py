"""The loop gets its steps one ahead, the same as without, and knows how long it waited."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tunesmith.data.batch import Encoded, EncodedStream
from tunesmith.data.plan import Plan
from tunesmith.training.feed import Feed


class Slow(Sequence[Any]):
    """Steps that take a while to be laid out, and say in which thread."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.threads: list[str] = []

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        time.sleep(self.seconds)
        return number


def test_steps_are_those_of_the_plan_from_any_one_on():
    examples = [Encoded({"text": EncodedStream((i, i + 1), (1.0, 1.0))}) for i in range(11)]
    plan = Plan(
        examples, lambda batch: {"n": 1.0}, batch_size=3, tokens_per_batch=4, epochs=2.0, seed=1
    )
    for first in (0, 3):
        with Feed(plan) as feed:
            for number in range(first, len(plan)):
                step, _ = feed.take(number)
                assert [b.indices for b in step] == [b.indices for b in plan[number]]


def test_what_is_laid_out_meanwhile_is_not_waited_for():
    with Feed(Slow(0.1)) as feed:
        _, first = feed.take(0)
        time.sleep(0.3)
        _, second = feed.take(1)
        _, third = feed.take(2)
    assert first >= 0.1
    assert second < 0.05
    assert third >= 0.05


def test_nothing_is_laid_out_behind_the_last_step():
    plan = Slow(0.0)
    with Feed(plan) as feed:
        for number in range(len(plan)):
            feed.take(number)
    assert len(plan.threads) == len(plan)


def test_what_goes_wrong_ahead_reaches_the_loop_and_the_thread_ends():
    class Broken(Slow):
        def __getitem__(self, number: Any) -> Any:
            if number == 1:
                raise ValueError("broken")
            return super().__getitem__(number)

    plan = Broken(0.0)
    with Feed(plan) as feed:
        feed.take(0)
        with pytest.raises(ValueError, match="broken"):
            feed.take(1)
    assert plan.threads[0].startswith("feed")
    assert not [t for t in threading.enumerate() if t.name == plan.threads[0]]
