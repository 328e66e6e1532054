"""`events.jsonl`: what happened, one line a step, so that every curve can be drawn again.

Lines are flushed as they are written. On resume the file is cut back to the checkpoint, so that it
reads the same however often the run was interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError
from tunesmith.models.atomic import unwritable


class Events:
    """Appends to an events file.

    Args:
        path: the file; made where it is missing.
        after_step: keep only lines of steps up to this one (a resumed run).
    """

    def __init__(self, path: Path, *, after_step: int = 0) -> None:
        self.path = path
        if path.exists():
            lines = list(_complete_lines(path))
            kept = [line for line in lines if _read(path, line)["step"] <= after_step]
            aside = path.with_suffix(".part")
            aside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            os.replace(aside, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, **event: Any) -> None:
        """Append one line; `step` must be among its fields.

        Raises:
            RunError: the disk is full or cannot be written.
        """
        try:
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()
        except OSError as error:
            raise unwritable(error, self.path) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a file, in order.

    Raises:
        RunError: a line is damaged.
    """
    return [_read(path, line) for line in _complete_lines(path)] if path.exists() else []


def _read(path: Path, line: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(line)
        event["step"]
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"A line is damaged: {line[:40]!r}.",
            where=str(path),
            fix="Remove that line; only the curves of the report are drawn from it.",
        ) from error
    return event


def _complete_lines(path: Path) -> Iterator[str]:
    """Whole lines only: a killed process may have left half of one."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield line.rstrip("\n")
