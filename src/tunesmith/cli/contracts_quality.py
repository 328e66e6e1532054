"""Parts of documents: what a close look at records found, and what was done about it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class LookDetails(BaseModel):
    """One kind of finding, and how much was looked at for it."""

    model_config = ConfigDict(from_attributes=True)

    kind: str = Field(description="its name, as `tunesmith clean` takes it")
    means: str = Field(description="what it is")
    records: int = Field(description="records that were looked at")
    found: int = Field(description="findings")
    remark: str = Field(description="why not more were looked at, or what is not seen")


class FindingDetails(BaseModel):
    """Something to look at."""

    model_config = ConfigDict(from_attributes=True)

    kind: str = Field(description="what kind of finding")
    part: str = Field(description="train, validation or test")
    origin: str = Field(description="file and line")
    reason: str = Field(description="why it is one")
    suggestion: str | None = Field(description="the label that it should have; null: none known")
    text: str = Field(description="how the record begins; personal data is taken out of such")


class HistogramDetails(BaseModel):
    """Counts between edges."""

    model_config = ConfigDict(from_attributes=True)

    edges: list[float] = Field(description="one more than there are counts")
    counts: list[int] = Field(description="how many are between an edge and the next")


class DeepDetails(BaseModel):
    """What a close look found (`--deep`)."""

    model_config = ConfigDict(from_attributes=True)

    looks: list[LookDetails] = Field(description="each kind, whether anything was found or not")
    findings: list[FindingDetails] = Field(description="by kind, the clearest first")
    languages: dict[str, int] = Field(description="records by language (ISO 639), or `unsure`")
    classes: dict[str, dict[str, int]] = Field(description="records of each class, by part")
    lengths: HistogramDetails = Field(description="words of the training records")
    encoder: str = Field(description="the model by whose vectors labels and outliers were judged")


class CleanedFileDetails(BaseModel):
    """One file that was written."""

    model_config = ConfigDict(from_attributes=True)

    source: str = Field(description="what was read")
    written: str = Field(description="what was written")
    records: int = Field(description="records of the source")
    dropped: int = Field(description="records that were left out")
    changed: int = Field(description="records that were changed")
