"""From an exception to what the user is told, and the exit code.

    exception ──explain──> Failure(what, where, fix, exit code)

A traceback is never shown: that of a defect is written to a file, and the message says where.
"""

from __future__ import annotations

import errno
import os
import shlex
import tempfile
import traceback
from dataclasses import dataclass

from tunesmith.errors import TunesmithError, is_shortage

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

EXIT_CODES = {
    0: "done",
    1: "failed while running; what was saved before stays",
    2: "what was given is wrong (recipe, data, model, command line); nothing was started",
    INTERRUPTED: "interrupted with Ctrl-C; the message says how to go on",
}

_OS_FIXES = {
    errno.ENOSPC: "Free some space, then run the same command again.",
    errno.EDQUOT: "Free some of your quota, then run the same command again.",
    errno.EACCES: "Change its permissions, or choose another place.",
    errno.EPERM: "Change its permissions, or choose another place.",
    errno.EROFS: "Choose a place that can be written.",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`).",
}


@dataclass(frozen=True)
class Failure:
    """What is said of a failure."""

    what: str
    where: str | None
    fix: str | None
    exit_code: int

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return " ".join(part for part in (f"{place}{self.what}", self.fix) if part)


def explain(error: BaseException) -> Failure:
    """Return what to say of `error`; writes the traceback of one that nobody expected."""
    match error:
        case TunesmithError():
            return Failure(error.what, error.where, error.fix, error.exit_code)
        case KeyboardInterrupt():
            return _interrupted(error)
        case OSError() if error.errno is not None:
            return _from_system(error)
    if is_shortage(error):
        return _out_of_memory()
    return _unexpected(error)


def _interrupted(error: KeyboardInterrupt) -> Failure:
    said = str(error)
    run = getattr(error, "run", None)
    return Failure(
        f"{said[:1].upper()}{said[1:]}." if said else "Interrupted.",
        None,
        f"Go on with: tunesmith train --resume {shlex.quote(run)}"
        if run
        else "A run that has a checkpoint goes on with: tunesmith train --resume RUN",
        INTERRUPTED,
    )


def _out_of_memory() -> Failure:
    return Failure(
        "There is not enough memory.",
        None,
        "Lower training.tokens_per_batch (the result stays the same), or take a smaller model.",
        1,
    )


def _from_system(error: OSError) -> Failure:
    number = error.errno or 0
    return Failure(
        f"{error.strerror or os.strerror(number)}.",
        None if error.filename is None else str(error.filename),
        _OS_FIXES.get(number, "See whether that place is there and can be used."),
        1,
    )


def _unexpected(error: BaseException) -> Failure:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if len(text) > 300:
        text = f"{text[:299]}…"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="tunesmith-error-", suffix=".log", encoding="utf-8", delete=False
        ) as file:
            file.write("".join(traceback.format_exception(error)))
        place = f"The details are in {file.name}; please report them."
    except OSError as unwritable:
        place = f"The details could not be written ({unwritable.strerror})."
    return Failure(f"Something went wrong inside Tunesmith: {text}", None, place, 1)
