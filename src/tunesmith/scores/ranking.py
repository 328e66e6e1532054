"""How near to the front right texts stand when a query ranks a collection, and how scores agree.

    similarities, which are right ──places──> places ──recall, ndcg──> 0 to 1 a query
    two lists of numbers ──paired_sums──> sums of a Pearson correlation (of ranks: Spearman)

Ties in a ranking go against the query: what is as similar as the right text stands before it. nDCG
is that of Järvelin & Kekäläinen (2002); what a text gains is its relevance. It knows no model.

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


def in_order(scores_N: Floats, relevance_N: Floats) -> Floats:
    """Return the relevance of each text in the order of the scores; of equals the least first."""
    ordered: Floats = relevance_N[np.lexsort((relevance_N, -scores_N))]
    return ordered


def graded_ndcg(ordered_N: Floats, first: int) -> float:
    """Return the normalised discounted cumulative gain of texts of such relevance, in their order.

    At least one of them must be relevant.
    """
    worth_N = 1 / np.log2(np.arange(2, len(ordered_N) + 2))
    worth_N[first:] = 0.0
    best_N = np.sort(ordered_N)[::-1]
    return float((ordered_N * worth_N).sum() / (best_N * worth_N).sum())


def average_precision(ordered_N: Floats) -> float:
    """Return the mean, over the relevant texts, of the share of relevant ones up to each."""
    relevant_N = ordered_N > 0
    shares_N = relevant_N.cumsum() / np.arange(1, len(ordered_N) + 1)
    return float(shares_N[relevant_N].mean())


def ranks(values: Sequence[float]) -> Floats:
    """Return the rank of each value, equal ones sharing their mean, scaled to lie around 0."""
    from scipy.stats import rankdata

    found: Floats = rankdata(values)
    return (found - (len(values) + 1) / 2) / max(len(values), 1)


def paired_sums(one: Floats, other: Floats, of: str = "rank") -> list[dict[str, float]]:
    """Return for each pair of numbers what a correlation adds up, under `sums_of(of)`.

    The numbers should lie around 0, so that sums of squares keep their digits.
    """
    return [
        dict(zip(sums_of(of), map(float, (1, x, y, x * x, y * y, x * y)), strict=True))
        for x, y in zip(one, other, strict=True)
    ]


def sums_of(what: str) -> tuple[str, ...]:
    """Return the names of the sums that a correlation is made of."""
    return (what, *(f"{what}_{part}" for part in ("x", "y", "xx", "yy", "xy")))


RANK_SUMS = sums_of("rank")


def correlation(sums: Mapping[str, Floats], of: str = "rank") -> Floats:
    """Return Pearson's correlation of such sums; 0 where one side does not vary."""
    n, x, y, xx, yy, xy = (sums[name] for name in sums_of(of))
    covariance = xy - x * y / n
    spread_x = xx - x**2 / n
    spread_y = yy - y**2 / n
    spread = np.sqrt(np.maximum(spread_x, 0.0) * np.maximum(spread_y, 0.0))
    varies = spread > 1e-12
    found: Floats = np.where(varies, covariance / np.where(varies, spread, 1.0), 0.0)
    return found
