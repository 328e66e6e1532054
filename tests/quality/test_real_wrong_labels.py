"""A tenth of real labels flipped: what a close look finds of them, with a real encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.wrong_labels import flip, measure, records

from tunesmith.console import Console
from tunesmith.runs.vectors import vectors_of


def test_a_tenth_of_the_labels_is_flipped_and_nothing_else() -> None:
    data = records("train")
    flipped, places = flip(data, 0)
    assert len(places) == 120
    for place, (one, other) in enumerate(zip(data.records, flipped.records, strict=True)):
        assert one.text == other.text
        assert (one.label != other.label) == (place in places)


@pytest.mark.real_model
def test_most_flipped_labels_are_found_and_cleaning_them_does_not_hurt(minilm_path: Path) -> None:
    train, test = records("train"), records("test")
    texts = [record.text for data in (train, test) for record in data.records]
    vectors = vectors_of(texts, str(minilm_path), Console(quiet=True))
    found = measure(train, test, vectors, seed=0)
    assert found["all"]["recall"] >= 0.65
    assert found["all"]["precision"] >= 0.40
    assert found["sure"]["0.7"]["precision"] >= 0.50
    assert found["sure"]["0.7"]["recall"] >= 0.40
    accuracy = found["accuracy"]
    assert accuracy["flipped, then --drop wrong_label"] >= accuracy["a tenth flipped"] - 0.01
