"""Rankings and correlations of ranks, beside scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, ndcg_score

from tunesmith.scores.ranking import (
    average_precision,
    correlation,
    graded_ndcg,
    in_order,
    ndcg,
    paired_sums,
    places,
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


@given(st.integers(0, 10_000))
def test_graded_ndcg_and_average_precision_equal_scikit_learns(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.permutation(15).astype(float)
    relevance = generator.integers(0, 4, 15).astype(float)
    relevance[seed % 15] = 2.0
    ordered = in_order(scores, relevance)
    assert graded_ndcg(ordered, 10) == pytest.approx(
        ndcg_score(relevance[None], scores[None], k=10)
    )
    assert average_precision(ordered) == pytest.approx(
        average_precision_score(relevance > 0, scores)
    )


def test_of_texts_with_equal_scores_the_least_relevant_stands_in_front() -> None:
    ordered = in_order(np.array([1.0, 2.0, 1.0, 1.0]), np.array([3.0, 0.0, 1.0, 2.0]))
    assert ordered.tolist() == [0.0, 1.0, 2.0, 3.0]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=40))
def test_the_correlation_of_sums_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    rows = paired_sums(ranks(one), ranks(other))
    sums = {name: np.array(sum(row[name] for row in rows)) for name in rows[0]}
    expected = 0.0
    if len(set(one)) > 1 and len(set(other)) > 1:
        expected = spearmanr(one, other).statistic
    assert correlation(sums) == pytest.approx(expected, abs=1e-9)
