"""Data sets of the hub, through `datasets`: had whole or streamed, with the names of their classes.

In: `owner/name[:configuration][:split]`. Out: the table, whose rows are plain dicts. What they mean
is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.errors import DataError


def load_hub(spec: str, *, streaming: bool = False) -> tuple[Any, str]:
    """Return a data set of the hub and its name with the split, `owner/name:train`.

    Raises:
        DataError: it cannot be had.
    """
    import datasets

    name, *rest = spec.split(":")
    split = rest[-1] if rest else "train"
    configuration = rest[0] if len(rest) > 1 else None
    try:
        table = datasets.load_dataset(name, configuration, split=split, streaming=streaming)
    except Exception as error:  # the hub client raises many kinds; each means "cannot be had"
        raise DataError(
            f"The data set {name!r} (split {split!r}) cannot be had from the hub: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where=f"hub:{spec}",
            fix="Check name, split and network; a local file needs its ending (.jsonl, .csv, ...).",
        ) from error
    return table, f"{name}:{split}"


def name_classes(rows: Sequence[dict[str, Any]], features: Mapping[str, Any] | None) -> None:
    """Put names for the numbers of classes, in place, where the data set knows them."""
    import datasets

    for field, feature in (features or {}).items():
        if isinstance(feature, datasets.ClassLabel):
            for row in rows:
                if isinstance(row[field], int) and row[field] >= 0:
                    row[field] = feature.int2str(row[field])
        elif isinstance(getattr(feature, "feature", None), datasets.ClassLabel):
            for row in rows:  # one class a word
                row[field] = [feature.feature.int2str(value) for value in row[field]]
