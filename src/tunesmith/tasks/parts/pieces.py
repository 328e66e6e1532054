"""Records that became several examples: which example belongs to which record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.data.batch import Encoded


def owners(examples: Sequence[Encoded]) -> list[int]:
    """Return for each example the index of the record that it is a piece of."""
    owner, found = -1, []
    for example in examples:
        owner += not example.continues
        found.append(owner)
    return found


def summed(
    examples: Sequence[Encoded], scores: Sequence[dict[str, float]]
) -> list[dict[str, float]]:
    """Add up what the pieces of each record got; return one row a record."""
    rows: list[dict[str, float]] = []
    for example, score in zip(examples, scores, strict=True):
        if not example.continues:
            rows.append({})
        for name, value in score.items():
            rows[-1][name] = rows[-1].get(name, 0.0) + value
    return rows
