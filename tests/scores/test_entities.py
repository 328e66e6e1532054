"""Counts of entities that add up to what seqeval gives."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score

from tunesmith.data.tagging import labels_in, read_tags
from tunesmith.scores.entities import count_entities, macro_f1, micro

LABELS = ("a", "b", "c")
TAGS = st.sampled_from(labels_in(LABELS, "iobes"))


@given(st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=9), min_size=1, max_size=5))
def test_figures_over_all_texts_equal_those_of_seqeval(
    texts: list[list[tuple[str, str]]],
) -> None:
    truth = [[right for right, _ in text] for text in texts]
    guess = [[said for _, said in text] for text in texts]
    rows = [
        count_entities(read_tags(said), read_tags(right), LABELS)
        for said, right in zip(guess, truth, strict=True)
    ]
    sums = {name: np.array(sum(row[name] for row in rows)) for name in rows[0]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where nothing is named, seqeval says so
        expected = {
            "f1": f1_score(truth, guess),
            "precision": precision_score(truth, guess),
            "recall": recall_score(truth, guess),
        }
        macro = f1_score(truth, guess, average="macro")
        each = f1_score(truth, guess, average=None)
    for name, value in expected.items():
        assert micro(name, sums, LABELS) == pytest.approx(value)
    assert macro_f1(sums, LABELS) == pytest.approx(np.nan_to_num(macro))
    occur = [
        label
        for label in LABELS
        if sum(float(sums[name]) for name in sums if name.endswith(f"[{label}]"))
    ]
    assert [float(micro("f1", sums, (label,))) for label in occur] == pytest.approx(list(each))


def test_sums_of_any_shape_give_figures_of_that_shape() -> None:
    rows = count_entities(read_tags(["B-a", "O", "B-b"]), read_tags(["B-a", "B-c", "O"]), LABELS)
    sums = {name: np.full((4, 2), value) for name, value in rows.items()}
    assert micro("f1", sums, LABELS).shape == (4, 2)
    assert micro("f1", sums, LABELS) == pytest.approx(np.full((4, 2), 0.5))
    assert macro_f1(sums, LABELS) == pytest.approx(np.full((4, 2), 1 / 3))
