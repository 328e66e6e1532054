"""What the sections of a recipe have in common: how strictly they are read, and what contradicts.

A section takes no key that it does not know and no text for a number, and does not change.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict
from pydantic_core import PydanticCustomError

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def empty_section(value: Any) -> Any:
    """Return a section without lines as one without keys."""
    return {} if value is None else value  # `training:` with every line below it commented out


def conflict(key: str, message: str, fix: str) -> PydanticCustomError:
    """Say what is wrong with `key` in a way that keeps its place (see `explain.py`)."""
    return PydanticCustomError("conflict", message, {"key": key, "fix": fix})
