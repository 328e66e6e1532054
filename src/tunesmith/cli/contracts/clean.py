"""What `clean` prints: which records were written anew."""

from __future__ import annotations

from pydantic import Field

from tunesmith.cli.contracts.document import Details, Document


class CleanedFileDetails(Details):
    """One file that was written."""

    source: str = Field(description="what was read")
    written: str = Field(description="what was written")
    records: int = Field(description="records of the source")
    dropped: int = Field(description="records that were left out")
    changed: int = Field(description="records that were changed")


class CleanDocument(Document):
    """`tunesmith clean --json`: what was written anew."""

    files: list[CleanedFileDetails] = Field(description="each file")
    log: str = Field(description="where it says what was done and why")
    format: str = Field(description="the record format that was recognised")
    dropped: dict[str, int] = Field(description="records that were left out, by kind of finding")
    changed: dict[str, int] = Field(description="records that were changed, likewise")
    remarks: list[str] = Field(description="what was not looked for, or not acted upon")
