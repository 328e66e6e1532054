"""`tunesmith.json`: what stands beside a saved result, so that it can be loaded again by us.

Other readers need none of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith.errors import ModelError
from tunesmith.models.heads import HeadName
from tunesmith.models.quantised import Quantised

FILE = "tunesmith.json"


class Base(BaseModel):
    """The model that a result was trained from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="its name in the recipe")
    fingerprint: str = Field(description="SHA-256 of its weights")
    revision: str | None = Field(default=None, description="commit on the hub, package version")
    path: str | None = Field(default=None, description="its folder, where it was trained")
    surgery: list[dict[str, Any]] = Field(
        default=[], description="operations that made it of the model of that name"
    )
    quantised: Quantised | None = Field(
        default=None, description="how its weights were stored while the adapter learnt"
    )
    streamed: bool = Field(default=False, description="whether its layers were left on disk")


class Notes(BaseModel):
    """What a result is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    saved_as: Literal["full", "adapter", "features"] = Field(description="which format it is in")
    head: HeadName = Field(description="its head")
    labels: list[str] = Field(default=[], description="names of the classes, in order")
    base: Base = Field(description="what it was trained from")


def write_notes(folder: Path, notes: Notes) -> None:
    """Write `notes` into `folder`."""
    text = notes.model_dump_json(indent=2) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def read_notes(folder: Path) -> Notes:
    """Return what is noted in `folder`.

    Raises:
        ModelError: there are no notes, or they cannot be read.
    """
    file = folder / FILE
    try:
        return Notes.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"This is not the result of a run: it has no readable {FILE}.",
            where=str(folder),
            fix="Give the run's `model` folder.",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ModelError(
            f"{FILE} is damaged, or written by another version: {place}: {first['msg']}.",
            where=str(file),
            fix="Take the folder from the run again.",
        ) from error
