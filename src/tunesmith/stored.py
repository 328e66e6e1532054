"""What an earlier process wrote, read back: what it lacks is an error in words, not a KeyError.

    JSON object, tensors by name ──Stored──> asked as a dict ──built──> a dataclass

A run may be gone on with by another version of Tunesmith than began it. What that one did not write
cannot be made up: whoever asks for it ends in one message. It reads no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tunesmith.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_FIX = "Start a new run, or go on with the version of Tunesmith that the run's record.json names."


class Stored(dict[str, Any]):
    """A mapping that was stored; to ask for a key that it lacks raises InputError.

    Args:
        content: the mapping, or its items; mappings inside become such mappings as well.
        where: the file that it was read from.
    """

    def __init__(
        self,
        content: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        where: Path | None = None,
    ) -> None:
        super().__init__(content)
        self.where = where
        for key, value in self.items():
            if isinstance(value, dict):
                self[key] = Stored(value, where)

    def __missing__(self, key: str) -> Any:
        raise InputError(
            f"It lacks {key!r}, which this version of Tunesmith needs: an older one wrote it.",
            where=None if self.where is None else str(self.where),
            fix=_FIX,
        )


def built(kind: type[T], content: Mapping[str, Any]) -> T:
    """Return a dataclass of what is stored: all of its fields, and nothing else.

    Raises:
        InputError: a field is missing, or there is one that the dataclass does not have.
    """
    stored = content if isinstance(content, Stored) else Stored(content)
    names = [field.name for field in fields(kind)]
    unknown = sorted(stored.keys() - set(names))
    if unknown:
        raise InputError(
            f"It holds {unknown[0]!r}, which this version of Tunesmith does not know: a newer one"
            " wrote it.",
            where=None if stored.where is None else str(stored.where),
            fix=_FIX,
        )
    return kind(**{name: stored[name] for name in names})
