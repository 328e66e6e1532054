"""The arithmetic of a paired bootstrap: resampled sums, an interval, a p-value, what is detectable.

    Pairs (two tables of statistics) ──resampling──> sums ──> differences of a metric ──> interval

Sources are named in `significance.py`, which says what follows from these numbers. It knows tables
of statistics and metrics only.

Shapes: N records, S statistics, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tunesmith.tasks.base import Metric

Floats = NDArray[np.float64]

_POWER = 0.8
_RESAMPLED_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Pairs:
    """Statistics of the records that were measured twice: `[N, S]` each."""

    names: tuple[str, ...]
    before: Floats
    after: Floats

    @property
    def n(self) -> int:
        """Records."""
        return len(self.before)

    def changed(self, metric: Metric) -> int:
        """How many records have other statistics after than before."""
        columns = [self.names.index(name) for name in metric.statistics]
        changed_N = (self.before[:, columns] != self.after[:, columns]).any(axis=1)
        return int(changed_N.sum())

    def difference(self, metric: Metric, before_RS: Floats, after_RS: Floats) -> Floats:
        """The metric's change, for each row of sums."""
        return self.value(metric, after_RS) - self.value(metric, before_RS)

    def value(self, metric: Metric, sums_RS: Floats) -> Floats:
        """The metric, for each row of sums; not finite where a sum that divides is zero."""
        columns = {name: sums_RS[..., self.names.index(name)] for name in metric.statistics}
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.asarray(metric.compute(columns), dtype=np.float64)


def resampling(records: int, resamples: int, generator: np.random.Generator) -> Iterator[Floats]:
    """Yield how often each record is drawn, `[R, N]`, in chunks of bounded memory."""
    at_once = max(1, _RESAMPLED_AT_ONCE // records)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn: NDArray[np.int64] = generator.integers(0, records, (count, records))
        drawn += np.arange(count)[:, None] * records
        times = np.bincount(drawn.ravel(), minlength=count * records)
        yield times.reshape(count, records).astype(np.float64)


def percentile_interval(drawn_R: Floats, records: int, confidence: float) -> tuple[float, float]:
    """Percentiles of the resampled differences, at levels widened for few records."""
    tail = (1 - confidence) / 2
    z = special.stdtrit(records - 1, np.array([tail, 1 - tail])) * _widening(records)
    low, high = np.quantile(drawn_R, special.ndtr(z))
    return float(low), float(high)


def bootstrap_p_value(drawn_R: Floats, records: int) -> float:
    """Twice the tail level at which the interval's bound is zero."""
    z = special.ndtri(_share(drawn_R, 0.0)) / _widening(records)
    tail = float(special.stdtr(records - 1, -abs(z)))
    return min(1.0, max(2 * tail, 2 / (len(drawn_R) + 1)))


def _widening(records: int) -> float:
    """The bootstrap's scatter divides by N, an unbiased one by N − 1."""
    return float(np.sqrt(records / (records - 1)))


def _share(drawn_R: Floats, value: float) -> float:
    """Share of the resamples below `value` (ties count half), never quite 0 or 1."""
    share = ((drawn_R < value).mean() + (drawn_R <= value).mean()) / 2
    return float(np.clip(share, 1 / (len(drawn_R) + 1), len(drawn_R) / (len(drawn_R) + 1)))


def minimum_detectable(error: float, records: int, confidence: float) -> float:
    """Minimum detectable effect: (t of the confidence + t of the power) standard errors."""
    quantiles = special.stdtrit(records - 1, np.array([(1 + confidence) / 2, _POWER]))
    return float(quantiles.sum() * error * _widening(records))
