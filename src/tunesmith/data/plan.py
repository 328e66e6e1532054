"""In which order, and in which packs, the training examples are seen.

    examples ──Plan──> Step (one optimiser step) ──> Batch, Batch, …   micro-batches

A step takes `batch_size` examples in a seeded order and lays them into as few micro-batches as
hold `tokens_per_batch` tokens each. Everything is a function of (examples, options, step number):
the plan has no state, so a resumed run asks for step n and gets what the first run would have got.
The counts of a step, by which the loss is divided, are known before its first forward.

It knows no model and no objective: how a batch is counted is given as a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.data.batch import Batch, Encoded, collate
from tunesmith.data.stored import lengths_of

Counts = dict[str, float]


@dataclass(frozen=True)
class Step:
    """One optimiser step: its micro-batches, and the count of each loss term over all of them.

    `after` is from where a stream goes on behind it, as JSON data; None where steps follow from
    their numbers alone.
    """

    batches: tuple[Batch, ...]
    counts: Counts
    after: Mapping[str, Any] | None = None

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    @property
    def tokens(self) -> int:
        """Tokens read in this step."""
        return sum(batch.tokens for batch in self.batches)


class Plan(Sequence[Step]):
    """The steps of a whole training run.

    Args:
        examples: the encoded training records.
        count: gives each loss term's count for a batch, such as `objective.counts`.
        batch_size: examples a step.
        tokens_per_batch: most tokens in one micro-batch (a longer example gets one of its own).
        epochs: how often each example is seen; may be a fraction.
        max_steps: the number of steps, in place of `epochs`.
        seed: decides the order.
        seen: gives what an example is in an epoch, from it, the seed and the epoch's number; None
            where it is always the same.
    """

    def __init__(
        self,
        examples: Sequence[Encoded],
        count: Callable[[Batch], Counts],
        *,
        batch_size: int,
        tokens_per_batch: int,
        epochs: float | None = 1.0,
        max_steps: int | None = None,
        seed: int = 0,
        seen: Callable[[Encoded, int, int], Encoded] | None = None,
    ) -> None:
        if not examples:
            raise ValueError("a plan needs at least one example")
        self.examples = examples
        self.batch_size = batch_size
        self.tokens_per_batch = tokens_per_batch
        self.seed = seed
        self.steps_per_epoch = math.ceil(len(examples) / batch_size)
        self.steps = max_steps or math.ceil((epochs or 1.0) * self.steps_per_epoch - 1e-9)
        self.counts_of = count
        self._seen = seen
        self._lengths = lengths_of(examples)
        self._order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Step:  # type: ignore[override]
        if not 0 <= step < self.steps:
            raise IndexError(step)
        packs = pack(self.indices(step), self._lengths, self.tokens_per_batch)
        epoch = step // self.steps_per_epoch
        batches = tuple(collate([self._example(i, epoch) for i in p], p) for p in packs)
        return Step(batches, add_counts([self.counts_of(batch) for batch in batches]))

    def _example(self, index: int, epoch: int) -> Encoded:
        example = self.examples[index]
        return example if self._seen is None else self._seen(example, self.seed, epoch)

    def indices(self, step: int) -> list[int]:
        """Return which examples step number `step` sees."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.examples))
            self._order = (epoch, order.tolist())
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def passes(self, step: int) -> int:
        """Return how many micro-batches step number `step` takes."""
        return len(pack(self.indices(step), self._lengths, self.tokens_per_batch))

    def tokens_of(self, step: int) -> int:
        """Return how many tokens step number `step` reads."""
        return sum(self._lengths[i] for i in self.indices(step))

    @property
    def tokens(self) -> int:
        """Tokens read over all steps."""
        return sum(self._lengths[i] for step in range(self.steps) for i in self.indices(step))

    def epoch(self, step: int) -> float:
        """Return how many epochs are done after `step` steps."""
        return step / self.steps_per_epoch


def pack(indices: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Lay examples into bins of at most `budget` tokens: best fit, longest first.

    Best-fit decreasing (Johnson 1973): each example goes where it leaves the least room. An
    example longer than the budget gets a bin of its own.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(indices, key=lambda i: (-lengths[i], i)):
        fits = [(space, b) for b, space in enumerate(room) if space >= lengths[index]]
        if fits:
            _, chosen = min(fits)
            bins[chosen].append(index)
            room[chosen] -= lengths[index]
        else:
            bins.append([index])
            room.append(budget - lengths[index])
    return bins


def add_counts(counts: Sequence[Counts]) -> Counts:
    """Add counts term by term."""
    total: Counts = {}
    for each in counts:
        for term, value in each.items():
            total[term] = total.get(term, 0.0) + value
    return total
