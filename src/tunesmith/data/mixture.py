"""Which task's records a step is made of, where several tasks learn at once.

    weights, begin, ramp ──shares(at)──> share of each task ──apportion──> records of each, by step

A task may come in later: its share is nothing before it `begin`s and grows along its `ramp`; those
that came in before it keep a least share together, so that what was learnt first is gone on with.
Everything is a function of the step's number: nothing is drawn, and each record of a step goes to
the task that is furthest behind its share, so that shares below one record a step come out even.
It knows no record and no task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Mixing = Literal["proportion", "temperature", "weights"]


@dataclass(frozen=True)
class Portion:
    """How much of one task there is.

    Attributes:
        weight: its share of the records once all tasks have come in, up to a common factor.
        begin: the share of the steps before which there is nothing of it.
        ramp: the share of the steps over which it then grows to its full weight.
    """

    weight: float
    begin: float = 0.0
    ramp: float = 0.0

    def at(self, point: float) -> float:
        """Return its weight at a point of training, from 0 to 1."""
        if point < self.begin:
            return 0.0
        return self.weight * (min(1.0, (point - self.begin) / self.ramp) if self.ramp else 1.0)


def weights(
    sizes: Sequence[int], mixing: Mixing, temperature: float, stated: Sequence[float]
) -> list[float]:
    """Return the weight of each task: n, n^(1/T) (Arivazhagan et al., 2019, arXiv:1907.05019), or
    as stated.

    Args:
        sizes: how many training records each has.
    """
    if mixing == "weights":
        return list(stated)
    return [float(size) ** (1.0 if mixing == "proportion" else 1.0 / temperature) for size in sizes]


def shares(portions: Sequence[Portion], point: float, replay: float) -> list[float]:
    """Return the share of each task at a point of training; they sum to 1.

    Args:
        replay: the least share that all tasks keep together which came in before the newest.
    """
    found = np.array([portion.at(point) for portion in portions])
    found /= found.sum()
    newest = max(p.begin for p, share in zip(portions, found, strict=True) if share > 0)
    earlier = np.array([portion.begin < newest for portion in portions])
    kept = found[earlier].sum()
    if earlier.any() and kept < replay:
        found[earlier] *= replay / kept
        found[~earlier] *= (1 - replay) / (1 - kept)
    return [float(share) for share in found]


@lru_cache(maxsize=8)
def apportion(
    portions: tuple[Portion, ...], steps: int, batch_size: int, replay: float
) -> NDArray[np.int64]:
    """Return how many records of each task each step takes: `[steps, tasks]`, rows of one sum."""
    taken = np.zeros((steps, len(portions)), np.int64)
    owed = np.zeros(len(portions))
    for step in range(steps):
        owed += batch_size * np.array(shares(portions, step / steps, replay))
        row = np.floor(owed + 1e-9).clip(0).astype(np.int64)
        while (spare := batch_size - row.sum()) != 0:
            behind = owed - row
            if spare > 0:
                row[behind.argmax()] += 1
            else:
                row[np.where(row > 0, behind, np.inf).argmin()] -= 1
        owed -= row
        taken[step] = row
    return taken
