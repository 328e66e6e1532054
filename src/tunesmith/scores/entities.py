"""Entities found, against those that are there: counts that can be added up, and what they make.

    found, right ──count_entities──> cells of each label ──ratio──> precision, recall, F1

An entity is right where its place and its label are. Sums of cells over records give the figures
that seqeval gives for all of them at once. It knows no task and no model.

Shapes: L labels; cells are arrays of any shape, with the labels in front.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.records import Entity

Floats = NDArray[np.float64]
CELLS = ("true_positives", "false_positives", "false_negatives")


def cell(name: str, label: str) -> str:
    """Return the name of a statistic: one of `CELLS`, of a label."""
    return f"{name}[{label}]"


def cells_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all cells of these labels."""
    return tuple(cell(name, label) for label in labels for name in CELLS)


def count_entities(
    found: Iterable[Entity], right: Iterable[Entity], labels: Sequence[str]
) -> dict[str, float]:
    """Return the cells of one record: how many were found, found in vain, and missed."""
    named, there = set(found), set(right)
    groups = dict(zip(CELLS, (named & there, named - there, there - named), strict=True))
    return {
        cell(name, label): float(sum(entity.label == label for entity in group))
        for label in labels
        for name, group in groups.items()
    }


def by_label(sums: Mapping[str, Floats], labels: Sequence[str]) -> tuple[Floats, Floats, Floats]:
    """Return true positives, false positives and false negatives, with the labels in front."""
    right, wrong, missed = (
        np.stack([np.asarray(sums[cell(name, label)]) for label in labels]) for name in CELLS
    )
    return right, wrong, missed


def ratio(
    of: Literal["precision", "recall", "f1"], right: Floats, wrong: Floats, missed: Floats
) -> Floats:
    """Precision, recall or F1 of such counts; 0 where there is nothing to divide by."""
    whole = {"precision": right + wrong, "recall": right + missed}.get(
        of, right + (wrong + missed) / 2
    )
    found: Floats = np.where(whole > 0, right / np.where(whole > 0, whole, 1.0), 0.0)
    return found


def micro(
    of: Literal["precision", "recall", "f1"], sums: Mapping[str, Floats], labels: Sequence[str]
) -> Floats:
    """The figure over all entities alike."""
    right, wrong, missed = (counts.sum(0) for counts in by_label(sums, labels))
    return ratio(of, right, wrong, missed)


def macro_f1(sums: Mapping[str, Floats], labels: Sequence[str]) -> Floats:
    """Mean F1 over the labels that occur in truth or prediction."""
    right, wrong, missed = by_label(sums, labels)
    occurs = right + wrong + missed > 0
    mean: Floats = ratio("f1", right, wrong, missed).sum(0) / np.maximum(occurs.sum(0), 1)
    return mean
