"""What every document has, and what is printed in the place of one when a command fails."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class Details(BaseModel):
    """A part of a document; made of whatever has the same fields."""

    model_config = ConfigDict(from_attributes=True)


class Document(Details):
    """What every document has."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="version of this contract")


class ErrorDetails(Details):
    """What went wrong."""

    what: str = Field(description="one sentence that says what is wrong")
    where: str | None = Field(description="file, line, field or record")
    fix: str | None = Field(description="what to do about it")


class ErrorDocument(Document):
    """Printed by every command in place of its own document when it fails."""

    error: ErrorDetails = Field(description="what went wrong")
    exit_code: int = Field(description="the exit code of the command")
