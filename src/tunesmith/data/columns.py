"""Names of fields: which there are, and giving them the names that a format expects.

    rows ──rename {source: translation.en}──> rows in which `source` is what `en` was

Rows go in and come out; what they mean is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tunesmith.errors import DataError, suggest

Row = Mapping[str, Any]


def rename(rows: Sequence[Row], columns: Mapping[str, str], where: str) -> list[dict[str, Any]]:
    """Return the rows with fields renamed.

    Args:
        columns: name that the format expects -> name in the file, or `outer.inner` of a field
            within a field.

    Raises:
        DataError: no row has such a field.
    """
    rows = lifted(rows, columns.values())
    present = fields_of(rows)
    for wanted, theirs in columns.items():
        if theirs not in present:
            raise DataError(
                f"There is no field {theirs!r} to read as {wanted!r}.",
                where=f"{where}: columns.{wanted}",
                fix=suggest(theirs, present),
            )
    back = {theirs: wanted for wanted, theirs in columns.items()}
    # a field that already has a wanted name, but that is not the one asked for, gives way
    return [
        {back.get(name, name): value for name, value in row.items()
         if name in back or name not in columns}
        for row in rows
    ]  # fmt: skip


def fields_of(rows: Sequence[Row]) -> list[str]:
    """Return every field that some row has, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def lifted(rows: Sequence[Row], names: Iterable[str]) -> list[dict[str, Any]]:
    """Return rows in which a field within a field, named `outer.inner`, stands by that name.

    The outer field is left out where something of it was taken.
    """
    nested = [name for name in names if "." in name]
    found = []
    for row in rows:
        taken = {
            name: row[outer][inner]
            for name in nested
            for outer, _, inner in [name.partition(".")]
            if isinstance(row.get(outer), Mapping) and inner in row[outer]
        }
        outers = {name.partition(".")[0] for name in taken}
        found.append({n: v for n, v in row.items() if n not in outers} | taken)
    return found


def replaced(row: Row, name: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a row whose field of that name, or `outer.inner`, is changed; as it is without it."""
    outer, _, inner = name.partition(".")
    if isinstance(row.get(outer), Mapping) and inner in row[outer]:
        return {**row, outer: {**row[outer], inner: change(row[outer][inner])}}
    return {**row, name: change(row[name])} if name in row else dict(row)
