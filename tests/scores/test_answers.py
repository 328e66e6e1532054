"""Answers compared as SQuAD's own evaluation compares them; the values were worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.scores.answers import exact, normalized, overlap


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("a man, an ape & the sea", "man ape sea"),
        ("theatre and another", "theatre and another"),
        ("U.S.", "us"),
        ("1,000", "1000"),
        ("the", ""),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation goes
        ("half-time", "halftime"),
    ],
)
def test_what_of_an_answer_counts(answer: str, counts: str) -> None:
    assert normalized(answer) == counts


@pytest.mark.parametrize(
    ("said", "right", "match", "f1"),
    [
        ("the Eiffel Tower", ["Eiffel tower"], 1.0, 1.0),
        ("tall Eiffel Tower", ["Eiffel Tower"], 0.0, 0.8),
        ("Paris", ["London", "Paris, France"], 0.0, 2 / 3),
        ("one one two", ["one two two"], 0.0, 2 / 3),
        ("Rome", ["Paris"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        ("Paris", [], 0.0, 0.0),
        ("", ["Paris"], 0.0, 0.0),
        ("the", ["Paris"], 0.0, 0.0),
        ("Paris", ["the", "Paris"], 1.0, 1.0),
        ("Paris", ["the"], 0.0, 0.0),  # a right answer of which nothing counts is no answer
        ("an", ["the"], 1.0, 1.0),
    ],
)
def test_match_and_overlap(said: str, right: list[str], match: float, f1: float) -> None:
    assert exact(said, right) == match
    assert overlap(said, right) == pytest.approx(f1)


WORDS = st.lists(st.sampled_from(["the", "Cat", "sat,", "mat", "a"]), max_size=5).map(" ".join)


@given(WORDS, st.lists(WORDS, max_size=3))
def test_an_exact_match_overlaps_wholly_and_nothing_exceeds_it(said: str, right: list[str]) -> None:
    assert 0.0 <= exact(said, right) <= overlap(said, right) <= 1.0
    assert overlap(said, [*right, said]) == 1.0 or not normalized(said)
