"""Rankings and correlations of ranks, beside scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from tunesmith.scores.ranking import (
    correlation,
    ndcg,
    places,
    rank_sums,
    ranks,
    recall,
)


def test_places_count_from_the_front_and_ties_go_against_the_query() -> None:
    similarities = np.array([0.9, 0.5, 0.7, 0.5, 0.1])
    assert places(similarities, [2]) == [2]
    assert places(similarities, [1]) == [4]  # the third and the fourth are alike
    assert places(similarities, [4, 0]) == [1, 5]


@given(st.integers(0, 10_000))
def test_ndcg_and_recall_equal_their_definitions(seed: int) -> None:
    generator = np.random.default_rng(seed)
    similarities = generator.permutation(20).astype(float)
    right = sorted(generator.choice(20, generator.integers(1, 5), replace=False).tolist())
    found = places(similarities, right)
    relevance = np.zeros((1, 20))
    relevance[0, right] = 1
    assert ndcg(found, 10) == pytest.approx(ndcg_score(relevance, similarities[None], k=10))
    first = set(np.argsort(-similarities)[:10].tolist())
    assert recall(found, 10) == pytest.approx(len(first & set(right)) / len(right))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=40))
def test_the_correlation_of_sums_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    rows = rank_sums(ranks(one), ranks(other))
    sums = {name: np.array(sum(row[name] for row in rows)) for name in rows[0]}
    expected = 0.0
    if len(set(one)) > 1 and len(set(other)) > 1:
        expected = spearmanr(one, other).statistic
    assert correlation(sums) == pytest.approx(expected, abs=1e-9)
