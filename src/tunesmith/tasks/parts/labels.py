"""Labels that a user lists, held against those that the training records have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tunesmith.errors import DataError, RecipeError


def listed_once(labels: Sequence[str] | None, noun: str) -> tuple[str, ...]:
    """Return the option `labels`; empty where it is not given.

    Raises:
        RecipeError: one of them stands twice.
    """
    repeated = [label for label, times in Counter(labels or ()).items() if times > 1]
    if repeated:
        raise RecipeError(
            f"The {noun} {repeated[0]!r} is listed twice.",
            where="task.labels",
            fix=f"List each {noun} once.",
        )
    return tuple(labels or ())


def check_listed(found: set[str], labels: Sequence[str], noun: str) -> None:
    """Raise DataError where the training records have a label that the option does not list."""
    unknown = found - set(labels)
    if unknown:
        raise DataError(
            f"The training records have the {noun} {min(unknown)!r}, which `task.labels` does"
            " not list.",
            fix="Add it to `task.labels`, or leave that option out.",
        )
