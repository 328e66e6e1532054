"""Gives the loop its steps, each laid out by a thread while the one before is computed.

    plan ──a thread, one step ahead──> Feed.take(number) ──> step, seconds waited

What a step holds follows from its number alone, so that being ahead changes nothing. How long the
loop stood still for it is measured: that share of a training is lost to reading and laying out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from tunesmith.data.plan import Step


class Feed:
    """The steps of a plan in order, from any one on; used as a context, which ends the thread."""

    def __init__(self, plan: Sequence[Step]) -> None:
        self._plan = plan
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._next: tuple[int, Future[Step]] | None = None

    def take(self, number: int) -> tuple[Step, float]:
        """Return step `number` and the seconds that were waited for it; begin with the next."""
        began = time.perf_counter()
        if self._next is None or self._next[0] != number:
            self._next = (number, self._begin(number))
        step = self._next[1].result()
        waited = time.perf_counter() - began
        following = number + 1
        self._next = (following, self._begin(following)) if following < len(self._plan) else None
        return step, waited

    def _begin(self, number: int) -> Future[Step]:
        return self._thread.submit(self._plan.__getitem__, number)

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
