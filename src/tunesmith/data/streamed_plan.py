"""The steps of a training whose records are streamed: window by window, each in a seeded order.

    position ──lay──> Laid(examples) ──shuffled, packed──> Step, Step, …, and on to the next window

As in `Plan`, a step takes `batch_size` examples; the last of a window may take fewer. The next
window is read and encoded by a thread while this one is learnt from, so that two are in memory at
most. What a step holds follows from its state alone (the window's position and the steps done in
it), which each step carries for the next: a run that is gone on with gets the same steps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tunesmith.data.batch import Batch, Encoded, collate
from tunesmith.data.plan import Counts, Step, add_counts, pack
from tunesmith.data.stored import lengths_of
from tunesmith.data.streaming import Position
from tunesmith.errors import DataError, RunError
from tunesmith.stored import built


@dataclass(frozen=True)
class Laid:
    """A window as it is learnt from.

    Attributes:
        after: where the next one begins.
        counts: of the window: records, dropped ones …, to be added up.
        met: what came by in the window and is to be remembered, as numbers.
    """

    examples: Sequence[Encoded]
    after: Position
    counts: Mapping[str, int]
    met: frozenset[int] = frozenset()


class StreamedPlan(Sequence[Step]):
    """Steps in their order, each asked for once.

    Args:
        lay: reads, checks and encodes the window at a position.
        count: gives each loss term's count for a batch, such as `objective.counts`.
        batch_size: examples a step.
        tokens_per_batch: most tokens in one micro-batch.
        max_steps: the number of steps.
        seed: decides the order within a window.
        one_pass: why a step must be one micro-batch; None where it need not.
        judge: is given all that was met so far, this window's included, before the window is learnt
            from; it raises where that must not go on.
        state: from where to go on, as a step carries it; None: from the beginning.
        first: the number of the step that comes next.
    """

    def __init__(
        self,
        lay: Callable[[Position], Laid],
        count: Callable[[Batch], Counts],
        *,
        batch_size: int,
        tokens_per_batch: int,
        max_steps: int,
        seed: int = 0,
        one_pass: str | None = None,
        judge: Callable[[frozenset[int]], None] = lambda met: None,
        state: Mapping[str, Any] | None = None,
        first: int = 0,
    ) -> None:
        self._lay, self._count = lay, count
        self._batch_size, self._budget = batch_size, tokens_per_batch
        self._steps, self._seed, self._one_pass = max_steps, seed, one_pass
        self._judge = judge
        self._next = first
        self._passes: dict[int, int] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="window")
        position = built(Position, state["position"]) if state else Position()
        self._before: Counter[str] = Counter(state["before"] if state else {})
        self._met = frozenset(state["met"] if state else ())
        self._ahead = self._begin(position)
        self._position = position
        self._laid: Laid | None = None
        self._order: list[int] = []
        self._lengths: list[int] = []
        self._done = state["steps"] if state else 0

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, number: int) -> Step:  # type: ignore[override]
        if number != self._next or number >= self._steps:
            raise IndexError(f"step {number} of a stream that stands at {self._next}")
        laid = self._window()
        start = self._done * self._batch_size
        chosen = self._order[start : start + self._batch_size]
        packs = pack(chosen, self._lengths, self._budget)
        if len(packs) > 1 and self._one_pass:
            tokens = sum(self._lengths[i] for i in chosen)
            raise RunError(
                f"Step {number + 1} has {tokens} tokens, more than one pass takes,"
                f" and {self._one_pass}.",
                where="training.tokens_per_batch",
                fix="Raise it, or lower training.batch_size, and start a new run.",
            )
        batches = tuple(collate([laid.examples[i] for i in p], p) for p in packs)
        self._done += 1
        self._next += 1
        self._passes = {number: self._passes.get(number, 0), self._next: self._position.passes}
        counts = add_counts([self._count(batch) for batch in batches])
        return Step(batches, counts, self._state(laid))

    def epoch(self, step: int) -> float:
        """Return how often all records were read before step number `step`, one of the last two."""
        return float(self._passes.get(step, self._position.passes))

    def close(self) -> None:
        """Read nothing more."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _window(self) -> Laid:
        """The window that the next step is of."""
        tried = 0
        while self._laid is None or self._done >= self._steps_in(self._laid):
            if self._laid is not None:
                self._before.update(self._laid.counts)
                self._position, self._done = self._laid.after, 0
            laid = self._ahead.result()
            self._ahead = self._begin(laid.after)
            self._enter(laid)
            tried += not laid.examples and not laid.after.shard and not laid.after.number
            if tried > 1:
                raise DataError(
                    "Nothing would be learnt of any of the records: all were left out.",
                    where="data.train",
                    fix="See `tunesmith check` for why.",
                )
        return self._laid

    def _enter(self, laid: Laid) -> None:
        self._met |= laid.met
        self._judge(self._met)
        self._laid = laid
        self._lengths = lengths_of(laid.examples)
        seed = (self._seed, *self._position.numbers())
        self._order = np.random.default_rng(seed).permutation(len(laid.examples)).tolist()

    def _begin(self, position: Position) -> Future[Laid]:
        return self._thread.submit(self._lay, position)

    def _steps_in(self, laid: Laid) -> int:
        return math.ceil(len(laid.examples) / self._batch_size)

    def _state(self, laid: Laid) -> dict[str, Any]:
        return {
            "position": asdict(self._position),
            "steps": self._done,
            "before": dict(self._before),
            "read": dict(self._before + Counter(laid.counts)),
            "met": sorted(self._met),
        }
