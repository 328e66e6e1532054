"""Reads the files of a finished run into one `Evidence`: all that words, plots and report need.

    recipe.yaml  events.jsonl  summary.json  evaluation/metrics.json  evaluation/predictions.parquet

In: a run directory. Out: `Evidence`. Fields that a file lacks stay at their defaults, and fields
that it has beyond these are passed over, so the report of a run made by a neighbouring version can
be written anew. Knows nothing of how the figures were measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tunesmith.errors import InputError
from tunesmith.evidence.curve import Curve, read_curve
from tunesmith.training.events import read_events

Verdict = Literal["improved", "no evidence", "worse"]
Interval = tuple[float | None, float | None]
SCHEMA_VERSION = 1


class MetricRow(BaseModel):
    """One metric before and after, on the records where both were measured.

    `difference` is after minus before, whichever direction is better; `detectable` is the smallest
    true difference that a test of this size would show four times in five; `better` says whether
    there is evidence of a change for better or worse, corrected for looking at several metrics.
    """

    before: float | None = None
    after: float | None = None
    difference: float | None = None
    interval: Interval = (None, None)
    p_value: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    n: int = 0
    unit: str = ""
    description: str = ""
    higher_is_better: bool = True
    generated: bool = False
    better: bool | None = None

    @property
    def verdict(self) -> Verdict:
        """What this row alone shows."""
        if self.better is None:
            return "no evidence"
        return "improved" if self.better else "worse"


class Noise(BaseModel):
    """How far apart two measurements of the same model came out: the instrument itself."""

    metric: str = ""
    difference: float | None = None
    records: int = 0


class Probe(BaseModel):
    """A figure on fixed general text that should not have changed."""

    name: str = "general text"
    before: float | None = None
    after: float | None = None
    tokens: int = 0
    unit: str = "perplexity"
    interval: Interval = (None, None)
    worse: bool | None = None


class MemberVerdict(BaseModel):
    """Of one of several tasks that were learnt at once: its deciding metric, and what that says."""

    primary: str
    verdict: Verdict


class Metrics(BaseModel):
    """`evaluation/metrics.json`."""

    schema_version: int
    verdict: Verdict
    primary: str
    confidence: float = 0.95
    resamples: int = 0
    metrics: dict[str, MetricRow]
    members: dict[str, MemberVerdict] = {}
    cautions: list[str] = []
    noise: Noise | None = None
    probe: Probe | None = None
    probe_refusal: str | None = None

    @property
    def deciding(self) -> MetricRow:
        """The row of the primary metric."""
        return self.metrics[self.primary]

    @property
    def decide(self) -> list[str]:
        """The metrics that decide: the primary one, then those of the other tasks."""
        return list(dict.fromkeys([self.primary, *(m.primary for m in self.members.values())]))

    @property
    def beside(self) -> dict[str, MetricRow]:
        """The rows of all metrics that decide nothing."""
        return {name: row for name, row in self.metrics.items() if name not in self.decide}

    @property
    def ordered(self) -> dict[str, MetricRow]:
        """All rows, those that decide first."""
        return {name: self.metrics[name] for name in self.decide} | self.beside


class ModelFacts(BaseModel):
    """Which model it was."""

    name: str = ""
    fingerprint: str = ""
    family: str = ""
    kind: str = ""
    parameters: int = 0


class PartFacts(BaseModel):
    """One part of the data: where from and how much."""

    file: str | list[str] = ""
    records: int = 0
    tokens: int = 0
    trained_tokens: int | None = None


class DataFacts(BaseModel):
    """What was learnt from and tested on."""

    train: PartFacts | None = None
    validation: PartFacts | None = None
    test: PartFacts | None = None
    format: str = ""
    cut: int = 0
    dropped: int = 0
    classes: dict[str, int] | None = None
    warnings: list[str] = []


class RoofFacts(BaseModel):
    """The rate of matrix products that the speed of training is held against."""

    flops_per_second: float
    dtype: str = ""
    threads: int | None = None
    device: str = ""
    source: str = ""
    measured: str = ""
    spread: float = 0.0
    busy: bool = False


class Summary(BaseModel):
    """`summary.json`."""

    schema_version: int
    run: str = ""
    created: str = ""
    tunesmith: str = ""
    model: ModelFacts = ModelFacts()
    task: str = ""
    technique: str = ""
    technique_facts: dict[str, str] = {}
    surgery: list[str] = []
    new_head: bool | None = None
    retain: dict[str, str] = {}
    data: DataFacts = DataFacts()
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    tokens_per_second: float | None = None
    waited: float | None = None
    mfu: float | None = None
    roof: RoofFacts | None = None
    predicted_memory_bytes: int | None = None
    peak_memory_bytes: int | None = None
    trainable_parameters: int = 0
    hardware: dict[str, Any] = {}
    versions: dict[str, str] = {}
    stopped_early: bool = False
    best_step: int | None = None


@dataclass(frozen=True)
class Example:
    """One test record: what was asked, what was right, and what the model said before and after.

    `improvement` is what the record adds to the metric that decides (`metric`), signed so that more
    is better.
    """

    origin: str
    prompt: str
    reference: str
    before: str | None
    after: str | None
    improvement: float
    metric: str


@dataclass(frozen=True)
class Evidence:
    """Everything that a report is made of."""

    recipe: str
    keeps_best: bool
    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]
    metrics: Metrics
    summary: Summary
    examples: list[Example]
    tradeoff: Curve | None = None

    @property
    def kept_step(self) -> int | None:
        """The step whose weights are the result, where validation chose them; else None."""
        return self.summary.best_step if self.keeps_best else None

    def validation_losses(self) -> list[tuple[int, float]]:
        """Return (step, loss) of each validation: the loss itself, or minus the log-likelihood."""
        found = []
        for event in self.validations:
            figures = event["validation"]
            if figures.get("loss") is not None:
                found.append((int(event["step"]), float(figures["loss"])))
            elif figures.get("log_likelihood") is not None:
                found.append((int(event["step"]), -float(figures["log_likelihood"])))
        return found


def read_evidence(run_dir: Path) -> Evidence:
    """Read what a run left.

    Raises:
        InputError: a file is missing, damaged, or of another schema version.
    """
    metrics = _read_json(run_dir, "evaluation/metrics.json", Metrics)
    if metrics.primary not in metrics.metrics:
        raise InputError(
            f"The deciding metric {metrics.primary!r} was not measured.",
            where=str(run_dir / "evaluation" / "metrics.json"),
        )
    events = read_events(run_dir / "events.jsonl")
    recipe = _read_text(run_dir, "recipe.yaml")
    return Evidence(
        recipe=recipe,
        keeps_best=_keeps_best(recipe, run_dir / "recipe.yaml"),
        steps=[event for event in events if "validation" not in event],
        validations=[event for event in events if "validation" in event],
        metrics=metrics,
        summary=_read_json(run_dir, "summary.json", Summary),
        examples=_read_examples(run_dir / "evaluation" / "predictions.parquet", metrics),
        tradeoff=read_curve(run_dir),
    )


M = TypeVar("M", Metrics, Summary)


def _read_json(run_dir: Path, name: str, model: type[M]) -> M:
    path = run_dir / name
    try:
        found = model.model_validate_json(_read_text(run_dir, name))
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(f"{part}: " for part in first["loc"])
        raise InputError(
            f"It is damaged: {field}{first['msg']}.",
            where=str(path),
            fix="Restore it from a copy, or remove it: `tunesmith train --resume` makes it anew.",
        ) from error
    if found.schema_version != SCHEMA_VERSION:
        raise InputError(
            f"It has schema version {found.schema_version}; this Tunesmith reads {SCHEMA_VERSION}.",
            where=str(path),
            fix="Use the version of Tunesmith that wrote it.",
        )
    return found


def _keeps_best(recipe: str, path: Path) -> bool:
    try:
        training = (yaml.safe_load(recipe) or {}).get("training") or {}
    except yaml.YAMLError as error:
        raise InputError(
            "It is damaged: it cannot be read as YAML.",
            where=str(path),
            fix="Restore it from a copy, or train anew under another --name.",
        ) from error
    return bool(training.get("keep_best"))


def _read_text(run_dir: Path, name: str) -> str:
    try:
        return (run_dir / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"This run has no {name}: it has not finished.",
            where=str(run_dir),
            fix=f"Go on with it: tunesmith train --resume {quote(str(run_dir))}",
        ) from None


def _read_examples(path: Path, metrics: Metrics) -> list[Example]:
    if not path.exists():
        return []
    from pyarrow import parquet

    sign = {
        name: 1.0 if metrics.metrics[name].higher_is_better else -1.0 for name in metrics.decide
    }
    return [
        Example(
            origin=str(row["origin"]),
            prompt=str(row["prompt"]),
            reference=str(row["reference"] or ""),
            before=row.get("output_before"),
            after=row.get("output_after"),
            improvement=sign[metric] * row["change"],
            metric=metric,
        )
        for row in parquet.read_table(path).to_pylist()
        for metric in [row.get("metric") or metrics.primary]
        if metric in sign and row.get("change") is not None and row["change"] == row["change"]
    ]
