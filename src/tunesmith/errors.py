"""The errors that Tunesmith raises on purpose, drawn as a tree.

    TunesmithError
    ├── InputError          what the user gave is wrong           exit code 2
    │   ├── RecipeError     a recipe, an override, an option
    │   ├── DataError       a record, a file of records, a split
    │   │   └── UnlearnableError   a record of which nothing would be learnt
    │   └── ModelError      a model that is missing or unfit for the task
    └── RunError            it failed while it was running        exit code 1

Each is made of *what* is wrong, *where* (file, line, field, record) and *what to do*. The command
line turns one into a message and an exit code in one place (`cli/main.py`). Nothing here prints.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TunesmithError(Exception):
    """Base of every error that is meant for the user.

    Args:
        what: one sentence that says what is wrong.
        where: the file, line, field or record, as `recipe.yaml:3: training.epochs`.
        fix: one sentence that says what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what if what.endswith(tuple(".?!…")) else f"{what}."
        self.where = where
        self.fix = fix
        place = f"{where}: " if where else ""
        advice = f" {fix}" if fix else ""
        super().__init__(f"{place}{self.what}{advice}")


class InputError(TunesmithError):
    """What the user gave is wrong: nothing was started, nothing was written."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe, an override or an option is wrong."""


class DataError(InputError):
    """A record, a file of records or a split is wrong."""


class UnlearnableError(DataError):
    """Nothing would be learnt of a record: the one kind that a recipe may ask to leave out."""


class ModelError(InputError):
    """A model is missing, cannot be read, or does not suit the task."""


class RunError(TunesmithError):
    """A run failed while it was running; what was saved before stays."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `Did you mean 'x'?` for the nearest known word, else the list of known words."""
    words = sorted(known)
    near = nearest(word, words)
    return f"Did you mean {near!r}?" if near else f"Known: {', '.join(words)}."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like `word`, whatever its case; None: none is like it."""
    lower = {each.lower(): each for each in known}
    near = get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return lower[near[0]] if near else None


def first_line(error: BaseException) -> str:
    """Return what another library's error says in its first line, or of what kind it is."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" :.")


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a device or in the process."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return "can't allocate memory" in str(error)
