"""Describes how long things are: tokens of records, trained tokens of records.

numbers ──Lengths.of──> Lengths     smallest, median, mean, 95th percentile, largest, total
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.data.batch import Encoded
from tunesmith.data.stored import lengths_of


@dataclass(frozen=True)
class Lengths:
    """The distribution of some whole numbers; all 0 where there are none."""

    count: int
    total: int
    smallest: int
    median: float
    mean: float
    p95: float
    largest: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Lengths:
        """Describe `numbers`."""
        if not numbers:
            return cls(0, 0, 0, 0.0, 0.0, 0.0, 0)
        values = np.asarray(numbers)
        return cls(
            count=len(numbers),
            total=int(values.sum()),
            smallest=int(values.min()),
            median=float(np.median(values)),
            mean=float(values.mean()),
            p95=float(np.percentile(values, 95)),
            largest=int(values.max()),
        )


@dataclass(frozen=True)
class Histogram:
    """Counts in bins; `edges` has one more entry than `counts`."""

    edges: list[float]
    counts: list[int]


def token_lengths(examples: Sequence[Encoded]) -> Lengths:
    """Describe how many tokens the examples have, over all their streams."""
    return Lengths.of(lengths_of(examples))


def histogram(numbers: Sequence[int], bins: int = 20) -> Histogram:
    """Count `numbers` in bins of equal width."""
    counts, edges = np.histogram(np.asarray(numbers), bins=bins)
    return Histogram([float(edge) for edge in edges], [int(count) for count in counts])
