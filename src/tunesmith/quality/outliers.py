"""Finds texts that are unlike all others: far from their nearest neighbours, or of an odd length.

    vectors_ND ──neighbour_distances──> distances_N ──beyond──> places
    lengths                             ──odd_lengths──> places

How far is too far is taken from the records themselves: so many robust deviations (1.4826 times the
median absolute deviation, which is the standard deviation of a normal distribution) above their
median; 3.5, after Iglewicz and Hoaglin 1993. With more records than `COMPARED`, neighbours are
looked for among so many drawn at random.

Shapes: N records, M of them compared with, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NEIGHBOURS = 10
COMPARED = 20_000
FAR = 3.5
"""Robust deviations from the median from which on a record stands out."""
ENOUGH = 50
"""Fewer records than this do not say what is usual."""
_ROWS = 1024
_TO_DEVIATION = 1.4826
_NARROWEST = np.log(1.5)
"""Lengths that hardly differ still have to differ by this factor times `FAR` to be odd."""


def neighbour_distances(vectors_ND: Floats, *, seed: int = 0) -> Floats:
    """Return how far each vector is from its nearest neighbours: the mean cosine distance, 0 to 2.

    Args:
        vectors_ND: of length 1.
        seed: of the choice of those that are compared with, where there are many.
    """
    count = len(vectors_ND)
    chosen = np.arange(count)
    if count > COMPARED:
        chosen = np.sort(np.random.default_rng(seed).choice(count, COMPARED, replace=False))
    against_MD = vectors_ND[chosen]
    column_of = {int(place): column for column, place in enumerate(chosen)}
    k = min(NEIGHBOURS, count - 1, len(chosen) - 1)
    distances_N = np.zeros(count)
    for start in range(0, count, _ROWS):
        nearness = vectors_ND[start : start + _ROWS] @ against_MD.T
        for row in range(len(nearness)):
            own = column_of.get(start + row)
            if own is not None:
                nearness[row, own] = -np.inf
        nearest = np.partition(nearness, -k, axis=1)[:, -k:]
        distances_N[start : start + _ROWS] = 1 - nearest.mean(1)
    return distances_N


def beyond(values_N: Floats) -> list[tuple[int, float]]:
    """Return the places of values far above the others, the farthest first.

    Each has with it how many robust deviations it is above the median.
    """
    deviations_N = _deviations(values_N, 0.0)
    far = [(int(place), float(deviations_N[place])) for place in np.flatnonzero(deviations_N > FAR)]
    return sorted(far, key=lambda one: (-one[1], one[0]))


def odd_lengths(lengths: Sequence[int]) -> list[tuple[int, float]]:
    """Return the places of lengths far from the others, the farthest first.

    Each has with it how many times the median it is (0 to infinity). Lengths are compared by
    their logarithms.
    """
    lengths_N = np.maximum(1.0, np.asarray(lengths, dtype=np.float64))
    deviations_N = _deviations(np.log(lengths_N), float(_NARROWEST))
    odd = [int(place) for place in np.flatnonzero(np.abs(deviations_N) > FAR)]
    odd.sort(key=lambda place: (-abs(deviations_N[place]), place))
    median = float(np.median(lengths_N)) if len(lengths_N) else 1.0
    return [(place, float(lengths_N[place] / median)) for place in odd]


def _deviations(values_N: Floats, least: float) -> Floats:
    """Return by how many robust deviations each value is above the median; none where too few."""
    if len(values_N) < ENOUGH:
        return np.zeros(len(values_N))
    from_median_N = values_N - np.median(values_N)
    deviation = max(_TO_DEVIATION * float(np.median(np.abs(from_median_N))), least)
    if deviation == 0:
        return np.zeros(len(values_N))
    found: Floats = from_median_N / deviation
    return found
