"""Records that became several examples: which belong to which, and what they got together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tunesmith.data.batch import Encoded

T = TypeVar("T")


def owners(examples: Sequence[Encoded]) -> list[int]:
    """Return for each example the index of the record that it is a piece of."""
    owner, found = -1, []
    for example in examples:
        owner += not example.continues
        found.append(owner)
    return found


def by_record(examples: Sequence[Encoded], found: Sequence[T]) -> list[list[T]]:
    """Return for each record what was found of each of its pieces."""
    rows: list[list[T]] = []
    for example, part in zip(examples, found, strict=True):
        if not example.continues:
            rows.append([])
        rows[-1].append(part)
    return rows


def summed(
    examples: Sequence[Encoded], scores: Sequence[dict[str, float]]
) -> list[dict[str, float]]:
    """Add up what the pieces of each record got; return one row a record."""
    rows: list[dict[str, float]] = []
    for pieces in by_record(examples, scores):
        rows.append({})
        for name, value in (item for piece in pieces for item in piece.items()):
            rows[-1][name] = rows[-1].get(name, 0.0) + value
    return rows
