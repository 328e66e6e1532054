"""What `--json` prints: one document a command, documented field by field.

A program may rely on these names and types within one `schema_version`; fields may be added. A
figure that is not known is null. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

Verdict = Literal["improved", "no evidence", "worse"]
Interval = tuple[float | None, float | None]


class Document(BaseModel):
    """What every document has."""

    model_config = ConfigDict(from_attributes=True)

    schema_version: int = Field(default=SCHEMA_VERSION, description="version of this contract")


class ErrorDetails(BaseModel):
    """What went wrong."""

    what: str = Field(description="one sentence that says what is wrong")
    where: str | None = Field(description="file, line, field or record")
    fix: str | None = Field(description="what to do about it")


class ErrorDocument(Document):
    """Printed by every command in place of its own document when it fails."""

    error: ErrorDetails = Field(description="what went wrong")
    exit_code: int = Field(description="the exit code of the command")


class MetricDetails(BaseModel):
    """One metric, before and after."""

    before: float | None = Field(default=None, description="of the model before training")
    after: float | None = Field(default=None, description="of the model after training")
    difference: float | None = Field(default=None, description="after minus before")
    interval: Interval = Field(
        default=(None, None), description="confidence interval of the difference"
    )
    p_value: float | None = Field(default=None, description="of no difference, two-sided")
    p_holm: float | None = Field(
        default=None, description="the same, corrected for looking at several metrics"
    )
    detectable: float | None = Field(
        default=None, description="smallest true difference that is found four times in five"
    )
    n: int = Field(default=0, description="records on which it was measured")
    unit: str = Field(default="", description="unit of the figures")
    description: str = Field(default="", description="what it measures")
    higher_is_better: bool = Field(default=True, description="whether more is better")


class OutcomeDocument(Document):
    """What a run brought: the verdict and its figures."""

    run: str = Field(description="path of the run directory")
    verdict: Verdict = Field(description="whether the primary metric got better")
    metric: str = Field(description="the primary metric, named before training")
    before: float | None = Field(description="the primary metric before training")
    after: float | None = Field(description="the primary metric after training")
    difference: float | None = Field(description="after minus before")
    interval: Interval = Field(description="confidence interval of the difference")
    detectable: float | None = Field(description="smallest difference this test could show")
    records: int = Field(description="test records on which the primary metric was measured")
    confidence: float = Field(description="confidence of the interval")
    metrics: dict[str, MetricDetails] = Field(description="every metric by name")
    tokens: int = Field(description="tokens computed in training")
    seconds: float = Field(description="time of the training loop")
    tokens_per_second: float = Field(description="of the training loop")
    trainable_parameters: int = Field(description="parameters that learnt")
    peak_memory_bytes: int | None = Field(description="largest memory of the process")


class TrainDocument(OutcomeDocument):
    """`tunesmith train --json`."""

    report: str = Field(description="path of the report")


class EvaluateDocument(OutcomeDocument):
    """`tunesmith evaluate --json`. The figures of training are those of the run's own training."""

    data: str | None = Field(description="the file given with --data; null: the run's test set")


class PredictionDetails(BaseModel):
    """The answer to one input."""

    input: Any = Field(description="the text, or the list of chat messages")
    text: str = Field(description="the answer, or the class")
    probabilities: dict[str, float] = Field(
        description="probability of each class; empty where text is generated"
    )


class PredictDocument(Document):
    """`tunesmith predict --json`."""

    run: str = Field(description="path of the run directory")
    predictions: list[PredictionDetails] = Field(description="one for each input, in order")


class TurnDetails(BaseModel):
    """One turn of a chat."""

    user: str = Field(description="what the user said")
    tuned: str | None = Field(description="what the fine-tuned model answered; null with --base")
    base: str | None = Field(
        description="what the base model answered; null without --base and --compare"
    )


class ChatDocument(Document):
    """`tunesmith chat --json`: the user's turns are the lines of standard input."""

    run: str = Field(description="path of the run directory")
    turns: list[TurnDetails] = Field(description="the conversation")


class PartDetails(BaseModel):
    """One part of the data."""

    model_config = ConfigDict(from_attributes=True)

    records: int = Field(description="records")
    tokens: int = Field(description="tokens of all of them")
    trained_tokens: int = Field(description="tokens that are learnt")
    shortest: int = Field(description="tokens of the shortest record")
    median: float = Field(description="tokens of the median record")
    longest: int = Field(description="tokens of the longest record")


class RecordDetails(BaseModel):
    """A record that needs a look, and why."""

    model_config = ConfigDict(from_attributes=True)

    origin: str = Field(description="file and line")
    reason: str = Field(description="what is the matter with it")


class PieceDetails(BaseModel):
    """Neighbouring tokens as the model sees them, all of them learnt or none."""

    model_config = ConfigDict(from_attributes=True)

    text: str = Field(description="their text")
    trained: bool = Field(description="whether they are learnt")


class ShownDetails(BaseModel):
    """A record as the model sees it (`--show`)."""

    model_config = ConfigDict(from_attributes=True)

    origin: str = Field(description="file and line")
    tokens: list[PieceDetails] = Field(description="its tokens in order, neighbours together")


class CheckDocument(Document):
    """`tunesmith check --json`: all that can be known before training."""

    model: str = Field(description="the model")
    kind: str = Field(description="decoder or encoder")
    task: str = Field(description="the task")
    technique: str = Field(description="the technique")
    format: str = Field(description="the record format that was recognised")
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
    parameters: int = Field(description="parameters of the model")
    trainable_parameters: int = Field(description="parameters that will learn")
    steps: int = Field(description="optimiser steps")
    memory_bytes: int = Field(description="estimated largest memory")
    seconds: float | None = Field(description="estimated time of the training loop")
    metric: str = Field(description="the metric that will decide")
    detectable: float | None = Field(description="smallest difference this test set could show")
    assumption: str | None = Field(description="what that figure takes for granted")
    warnings: list[str] = Field(description="what should be looked at")
    shown: list[ShownDetails] = Field(description="the records asked for with --show")


class ModelDetails(BaseModel):
    """An entry of the catalogue."""

    name: str = Field(description="the name to write in a recipe")
    hub: str | None = Field(description="its id on the hub")
    kind: str = Field(description="decoder, encoder or encoder-decoder")
    parameters: int | None = Field(description="parameters; null where unknown")
    context: int | None = Field(description="longest input in tokens; null where unknown")
    licence: str = Field(description="licence of the weights")
    gated: bool | None = Field(description="whether the hub asks to accept terms first")
    source: str = Field(description="where these facts come from")
    where: str = Field(
        description="hub-cache or pulled where it is on this machine; else package or hub, from "
        "where it would be fetched"
    )


class ModelsDocument(Document):
    """`tunesmith models list --json`."""

    models: list[ModelDetails] = Field(description="all entries")


class PlaceDocument(Document):
    """`tunesmith models pull NAME --json` and `tunesmith models where NAME --json`."""

    name: str = Field(description="what was asked for")
    path: str = Field(description="folder of its files")
    origin: str = Field(description="folder, gguf, hub-cache, pulled or hub")
    fingerprint: str = Field(description="SHA-256 of the weights")
    revision: str | None = Field(description="commit or package version")


class InitDocument(Document):
    """`tunesmith init --json`."""

    folder: str = Field(description="the folder that was made")
    files: list[str] = Field(description="the files in it")
    next: list[str] = Field(description="commands to go on with")


class ReportDocument(Document):
    """`tunesmith report --json`."""

    run: str = Field(description="path of the run directory")
    report: str = Field(description="path of the report")


class RecipeDocument(Document):
    """`tunesmith recipe show --json`."""

    recipe: dict[str, Any] = Field(description="the recipe with every default")


class RecipeSchemaDocument(Document):
    """`tunesmith recipe schema --json`; without `--json` the schema stands alone."""

    recipe_schema: dict[str, Any] = Field(description="JSON schema of a recipe")


DOCUMENTS: dict[str, type[Document]] = {
    "init": InitDocument,
    "models list": ModelsDocument,
    "models pull": PlaceDocument,
    "models where": PlaceDocument,
    "check": CheckDocument,
    "train": TrainDocument,
    "evaluate": EvaluateDocument,
    "predict": PredictDocument,
    "chat": ChatDocument,
    "report": ReportDocument,
    "recipe schema": RecipeSchemaDocument,
    "recipe show": RecipeDocument,
    "any command that fails": ErrorDocument,
}
