"""What `check` prints: all that can be known of a recipe, its records and its model."""

from __future__ import annotations

from pydantic import Field

from tunesmith.cli.contracts.document import Details, Document


class PartDetails(Details):
    """One part of the data."""

    records: int = Field(description="records")
    tokens: int = Field(description="tokens of all of them")
    trained_tokens: int = Field(description="tokens that are learnt")
    shortest: int = Field(description="tokens of the shortest record")
    median: float = Field(description="tokens of the median record")
    longest: int = Field(description="tokens of the longest record")


class RecordDetails(Details):
    """A record that needs a look, and why."""

    origin: str = Field(description="file and line")
    reason: str = Field(description="what is the matter with it")


class PieceDetails(Details):
    """Neighbouring tokens as the model sees them, all of them learnt or none."""

    text: str = Field(description="their text")
    trained: bool = Field(description="whether they are learnt")


class ShownDetails(Details):
    """A record as the model sees it (`--show`)."""

    origin: str = Field(description="file and line")
    tokens: list[PieceDetails] = Field(description="its tokens in order, neighbours together")
    learnt: str | None = Field(
        default=None, description="what is learnt of it that is no token of its text: its class"
    )


class LookDetails(Details):
    """One kind of finding, and how much was looked at for it."""

    kind: str = Field(description="its name, as `tunesmith clean` takes it")
    means: str = Field(description="what it is")
    records: int = Field(description="records that were looked at")
    found: int = Field(description="findings")
    remark: str = Field(description="why not more were looked at, or what is not seen")


class FindingDetails(Details):
    """Something to look at."""

    kind: str = Field(description="what kind of finding")
    part: str = Field(description="train, validation or test")
    origin: str = Field(description="file and line")
    reason: str = Field(description="why it is one")
    suggestion: str | None = Field(description="the label that it should have; null: none known")
    text: str = Field(description="how the record begins; personal data is taken out of such")


class HistogramDetails(Details):
    """Counts between edges."""

    edges: list[float] = Field(description="one more than there are counts")
    counts: list[int] = Field(description="how many are between an edge and the next")


class DeepDetails(Details):
    """What a close look found (`--deep`)."""

    looks: list[LookDetails] = Field(description="each kind, whether anything was found or not")
    findings: list[FindingDetails] = Field(description="by kind, the clearest first")
    languages: dict[str, int] = Field(description="records by language (ISO 639), or `unsure`")
    classes: dict[str, dict[str, int]] = Field(description="records of each class, by part")
    lengths: HistogramDetails = Field(description="words of the training records")
    encoder: str = Field(description="the model by whose vectors labels and outliers were judged")


class DecidingDetails(Details):
    """What decides one of several tasks."""

    task: str = Field(description="the task")
    metric: str = Field(description="the metric that will decide")
    test_records: int = Field(description="records that it is measured on")
    detectable: float | None = Field(description="smallest difference these could show")
    assumption: str | None = Field(description="what that figure takes for granted")


class CheckDocument(Document):
    """`tunesmith check --json`: all that can be known before training."""

    model: str = Field(description="the model")
    kind: str = Field(description="decoder or encoder")
    task: str = Field(description="the task")
    technique: str = Field(description="the technique")
    format: str = Field(description="the record format that was recognised")
    ignored: list[str] = Field(description="fields of the training records that nothing reads")
    train: PartDetails = Field(description="records to learn from")
    validation: PartDetails | None = Field(description="records to choose by")
    test: PartDetails = Field(description="records to judge by")
    cut: list[RecordDetails] = Field(description="records that are cut to fit")
    dropped: list[RecordDetails] = Field(
        description="records that are left out, as nothing of them would be learnt"
    )
    classes: dict[str, int] | None = Field(description="training records of each class")
    exact_duplicates: list[RecordDetails] = Field(description="records that stand twice in train")
    near_duplicates: list[RecordDetails] = Field(description="records nearly the same as another")
    leaks: list[RecordDetails] = Field(description="test records that stand in train as well")
    parameters: int = Field(description="parameters of the model, without what is added to learn")
    trainable_parameters: int = Field(
        description="parameters that will learn: the model's own, or added ones"
    )
    steps: int = Field(description="optimiser steps")
    memory_bytes: int = Field(description="estimated largest memory")
    seconds: float | None = Field(description="estimated time of the training loop")
    metric: str | None = Field(
        description="the metric that will decide; null where several tasks are learnt, see"
        " `members`"
    )
    detectable: float | None = Field(description="smallest difference this test set could show")
    assumption: str | None = Field(description="what that figure takes for granted")
    members: dict[str, DecidingDetails] = Field(
        description="of each of several tasks, by name, the metric that decides its verdict; the"
        " worst of the verdicts is the run's"
    )
    remarks: list[str] = Field(
        description="what the task does to records that a user should know (the chat template)"
    )
    warnings: list[str] = Field(description="what should be looked at")
    shown: list[ShownDetails] = Field(description="the records asked for with --show")
    deep: DeepDetails | None = Field(
        default=None, description="what --deep found in the records; null without it"
    )
    page: str | None = Field(default=None, description="where --html wrote the page")
