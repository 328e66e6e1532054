"""Room in Tunesmith's cache: what may be kept there, and what makes way for it.

    recipe's cache_gb ──budget_bytes──> bytes ──make_room──> what was not read for longest is gone

Everything that is made once and read ever after (rows of frozen layers, encoded records) lies in a
folder of its own under `SHELVES`; all of them share one budget. Any of it may be deleted at any
time. It knows nothing of what is kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from tunesmith.models.fingerprint import cache_root

GB = 10**9
SHELVES = ("frozen", "encoded")
"""Folders of the cache that share the budget."""


def shelf(name: str) -> Path:
    """Return the folder of one kind of thing that is kept: a name of `SHELVES`."""
    return cache_root() / name


def bytes_of(place: Path) -> int:
    """Return the bytes of what is kept at `place`; 0 where nothing is."""
    total = 0
    with suppress(OSError):
        for file in place.iterdir():
            with suppress(OSError):
                total += file.stat().st_size
    return total


def budget_bytes(stated: float | str) -> int:
    """Return the disk that all that is kept may take together; `auto`: half of what is free."""
    if not isinstance(stated, str):
        return int(stated * GB)
    used = sum(map(bytes_of, _places()))
    root = cache_root()
    existing = next(place for place in (root, *root.parents) if place.exists())
    return (shutil.disk_usage(existing).free + used) // 2


def make_room(needed: int, budget: int, spare: Collection[Path] = ()) -> None:
    """Remove what was not read for longest, until `needed` more bytes fit the budget.

    A process that has a file mapped goes on reading it: it lives as long as it is open.

    Args:
        spare: places that are not removed.
    """
    sizes = {place: bytes_of(place) for place in _places()}
    used = sum(sizes.values())
    for place in sorted(sizes, key=_last_read):
        if used + needed <= budget:
            return
        if place not in spare:
            used -= sizes[place]
            shutil.rmtree(place, ignore_errors=True)


def size_in_words(count: int) -> str:
    """Return a number of bytes in words: `1.2 GB`, `240 MB`."""
    return f"{count / GB:.3g} GB" if count >= GB else f"{count / 10**6:.2g} MB"


def _places() -> list[Path]:
    return [place for name in SHELVES for place in shelf(name).glob("[!.]*") if place.is_dir()]


def _last_read(place: Path) -> float:
    with suppress(OSError):
        return place.stat().st_mtime
    return 0.0
