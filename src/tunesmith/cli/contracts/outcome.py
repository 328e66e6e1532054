"""What `train` and `evaluate` print: the verdict of a run, and its figures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.cli.contracts.document import Details, Document

Verdict = Literal["improved", "no evidence", "worse"]
Interval = tuple[float | None, float | None]


class MetricDetails(Details):
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


class MemberDetails(Details):
    """One of several tasks that were learnt at once."""

    primary: str = Field(description="the metric that decides its verdict")
    verdict: Verdict = Field(description="whether that got better, corrected for all tasks")


class OutcomeDocument(Document):
    """What a run brought: the verdict and its figures."""

    run: str = Field(description="path of the run directory")
    verdict: Verdict = Field(
        description="whether the primary metric got better; of several tasks, the worst verdict"
    )
    metric: str = Field(description="the primary metric, named before training")
    before: float | None = Field(description="the primary metric before training")
    after: float | None = Field(description="the primary metric after training")
    difference: float | None = Field(description="after minus before")
    interval: Interval = Field(description="confidence interval of the difference")
    detectable: float | None = Field(description="smallest difference this test could show")
    records: int = Field(description="test records on which the primary metric was measured")
    confidence: float = Field(description="confidence of the interval")
    metrics: dict[str, MetricDetails] = Field(description="every metric by name")
    members: dict[str, MemberDetails] = Field(
        default={}, description="of several tasks at once, each one's verdict; else empty"
    )
    tokens: int = Field(description="tokens computed in training")
    seconds: float = Field(description="time of the training loop")
    tokens_per_second: float = Field(description="of the training loop")
    waited: float | None = Field(
        default=None,
        description="share of that time in which the next records were not ready",
    )
    mfu: float | None = Field(
        default=None,
        description="model FLOPs utilisation of the training loop, as a share of the machine's "
        "measured rate of matrix products",
    )
    trainable_parameters: int = Field(description="parameters that learnt")
    peak_memory_bytes: int | None = Field(description="largest memory of the process")


class TrainDocument(OutcomeDocument):
    """`tunesmith train --json`."""

    report: str = Field(description="path of the report")


class EvaluateDocument(OutcomeDocument):
    """`tunesmith evaluate --json`. The figures of training are those of the run's own training."""

    data: str | None = Field(description="the file given with --data; null: the run's test set")
