"""How near to the front right texts stand when a query ranks a collection, and how scores agree.

    similarities, which are right ──places──> places ──recall, ndcg──> 0 to 1 a query
    two lists of numbers ──ranks, rank_sums──> sums of a Pearson correlation of ranks (Spearman)

Ties in a ranking go against the query: what is as similar as the right text stands before it. nDCG
is that of Järvelin & Kekäläinen (2002) with relevance 0 or 1. It knows no model.

Shapes: Q queries, N texts of the collection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def places(similarities_N: Floats, right: Sequence[int]) -> list[int]:
    """Return at which place (1 is the front) each right text stands, in order of the places.

    Args:
        right: which texts of the collection are right, each once.
    """
    wrong = np.ones(len(similarities_N), dtype=bool)
    wrong[list(right)] = False
    found = []
    for before, text in enumerate(sorted(right, key=lambda n: -similarities_N[n])):
        found.append(int((similarities_N[wrong] >= similarities_N[text]).sum()) + before + 1)
    return found


def recall(found: Sequence[int], first: int) -> float:
    """Return the share of the right texts among the first so many."""
    return sum(place <= first for place in found) / len(found)


def ndcg(found: Sequence[int], first: int) -> float:
    """Return the normalised discounted cumulative gain of the first so many."""
    gained = sum(1 / np.log2(place + 1) for place in found if place <= first)
    best = sum(1 / np.log2(place + 1) for place in range(1, min(len(found), first) + 1))
    return float(gained / best)


def ranks(values: Sequence[float]) -> Floats:
    """Return the rank of each value, equal ones sharing their mean, scaled to lie around 0."""
    from scipy.stats import rankdata

    found: Floats = rankdata(values)
    return (found - (len(values) + 1) / 2) / max(len(values), 1)


def rank_sums(one: Floats, other: Floats) -> list[dict[str, float]]:
    """Return for each pair of ranks what a correlation adds up."""
    return [
        {
            "rank": 1.0,
            "rank_x": float(x),
            "rank_y": float(y),
            "rank_xx": float(x * x),
            "rank_yy": float(y * y),
            "rank_xy": float(x * y),
        }
        for x, y in zip(one, other, strict=True)
    ]


RANK_SUMS = ("rank", "rank_x", "rank_y", "rank_xx", "rank_yy", "rank_xy")


def correlation(sums: Mapping[str, Floats]) -> Floats:
    """Return Pearson's correlation of such sums; 0 where one side does not vary."""
    n = sums["rank"]
    covariance = sums["rank_xy"] - sums["rank_x"] * sums["rank_y"] / n
    spread_x = sums["rank_xx"] - sums["rank_x"] ** 2 / n
    spread_y = sums["rank_yy"] - sums["rank_y"] ** 2 / n
    spread = np.sqrt(np.maximum(spread_x, 0.0) * np.maximum(spread_y, 0.0))
    varies = spread > 1e-12
    found: Floats = np.where(varies, covariance / np.where(varies, spread, 1.0), 0.0)
    return found
