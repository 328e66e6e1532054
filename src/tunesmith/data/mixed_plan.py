"""The steps of a training on several tasks at once: each micro-batch is of one task.

    examples of each task, portions ──MixedPlan──> Step ──> Batch(member, share), Batch, …

As in `Plan`, everything is a function of (examples, options, step number), so that a resumed run
gets what the first run would have got. Of each task the records are taken in a seeded order of its
own, and all of them before any is taken again, however few a step takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tunesmith.data.batch import Batch, Encoded, collate
from tunesmith.data.mixture import Portion, apportion
from tunesmith.data.plan import Counts, Plan, Step, add_counts, pack

Seen = Callable[[Encoded, int, int], Encoded]


@dataclass(frozen=True)
class Mixed:
    """One task of a mixture.

    Attributes:
        places: of its examples, among all.
        seen: gives what an example is in an epoch; None where it is always the same.
    """

    portion: Portion
    places: Sequence[int]
    seen: Seen | None = None


class MixedPlan(Plan):
    """The steps of a training on several tasks.

    Args:
        examples: the encoded training records of all tasks.
        members: the tasks by name, in the order in which a step takes them.
        replay: see `mixture.shares`.
        count, batch_size, tokens_per_batch, epochs, max_steps, seed: as in `Plan`; an epoch is as
            many records as all tasks have together.
    """

    def __init__(
        self,
        examples: Sequence[Encoded],
        members: Mapping[str, Mixed],
        count: Callable[[Batch], Counts],
        *,
        replay: float,
        batch_size: int,
        tokens_per_batch: int,
        epochs: float | None = 1.0,
        max_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            examples,
            count,
            batch_size=batch_size,
            tokens_per_batch=tokens_per_batch,
            epochs=epochs,
            max_steps=max_steps,
            seed=seed,
        )
        self.members = dict(members)
        portions = tuple(member.portion for member in self.members.values())
        self.taken = apportion(portions, self.steps, batch_size, replay)
        self._before = np.cumsum(self.taken, 0) - self.taken
        self._orders: dict[int, tuple[int, list[int]]] = {}

    def __getitem__(self, step: int) -> Step:  # type: ignore[override]
        if not 0 <= step < self.steps:
            raise IndexError(step)
        batches = []
        for (name, member), chosen in zip(self.members.items(), self._chosen(step), strict=True):
            for places in self._packs(chosen):
                examples = [self._as_seen(member, *chosen[place]) for place in places]
                batch = collate(examples, [chosen[place][0] for place in places])
                share = len(chosen) / self.batch_size
                batches.append(replace(batch, member=name, share=share))
        return Step(tuple(batches), add_counts([self.counts_of(batch) for batch in batches]))

    def indices(self, step: int) -> list[int]:
        """Return which examples step number `step` sees."""
        return [index for chosen in self._chosen(step) for index, _ in chosen]

    def passes(self, step: int) -> int:
        """Return how many micro-batches step number `step` takes."""
        return sum(self.passes_of(step).values())

    def passes_of(self, step: int) -> dict[str, int]:
        """Return how many micro-batches of each task step number `step` takes."""
        packs = (self._packs(chosen) for chosen in self._chosen(step))
        return {name: len(found) for name, found in zip(self.members, packs, strict=True)}

    def _packs(self, chosen: Sequence[tuple[int, int]]) -> list[list[int]]:
        lengths = [self._lengths[index] for index, _ in chosen]
        return pack(range(len(chosen)), lengths, self.tokens_per_batch)

    def _as_seen(self, member: Mixed, index: int, epoch: int) -> Encoded:
        example = self.examples[index]
        return example if member.seen is None else member.seen(example, self.seed, epoch)

    def _chosen(self, step: int) -> Iterator[list[tuple[int, int]]]:
        """Yield of each task the examples that a step takes, and in which of its epochs."""
        for number, member in enumerate(self.members.values()):
            first = int(self._before[step, number])
            spots = range(first, first + int(self.taken[step, number]))
            found = (divmod(spot, len(member.places)) for spot in spots)
            yield [(member.places[self._order_of(number, e)[p]], e) for e, p in found]

    def _order_of(self, number: int, epoch: int) -> list[int]:
        if self._orders.get(number, (-1, []))[0] != epoch:
            size = len(list(self.members.values())[number].places)
            order = np.random.default_rng((self.seed, epoch, number)).permutation(size)
            self._orders[number] = (epoch, order.tolist())
        return self._orders[number][1]
