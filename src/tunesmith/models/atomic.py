"""Folders that are either whole or absent.

A folder is filled beside its final place, flushed to the disk and renamed, so that a reader never
sees half of one, whatever was interrupted. `locked` keeps two processes from filling the same
one. It knows nothing of what is written.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from tunesmith.errors import RunError


class UnwritableError(RunError):
    """The disk is full, or a place may not be written.

    The advice is to do it all again; who knows of a shorter way from there says so instead.
    """


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill; when the block ends well, it becomes `folder`.

    An existing `folder` is replaced. When the block raises, nothing is left behind.

    Raises:
        RunError: the disk is full, or the place cannot be written.
    """
    aside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        aside.chmod(0o755)
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _flush(file)
        _take_place(aside, folder)
    except OSError as error:
        raise unwritable(error, folder) from error
    except SafetensorError as error:
        system = _of_system(error)
        if system is None:
            raise
        raise unwritable(system, folder) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock that belongs to `folder`; waits for a process that has it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        lock.acquire()
    except OSError as error:
        raise unwritable(error, folder) from error
    try:
        yield
    finally:
        lock.release()


def unwritable(error: OSError, place: Path) -> UnwritableError:
    """Return the error to raise when `place` could not be written."""
    return UnwritableError(
        f"Could not write: {error.strerror or error}.",
        where=str(error.filename or place),
        fix="Free some space or choose a folder that you may write, then run it again.",
    )


def _of_system(error: SafetensorError) -> OSError | None:
    """Return the system's error behind one of the safetensors writer, which says it as text."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def _take_place(aside: Path, folder: Path) -> None:
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        os.replace(folder, old / "replaced")
        os.replace(aside, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(aside, folder)
    _flush(folder.parent)


def _flush(path: Path) -> None:
    """Make `path` durable; folders cannot be opened for this everywhere."""
    flags = os.O_RDONLY
    with suppress(PermissionError, IsADirectoryError):
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
