"""Writes `report.html`: one self-contained page, the verdict first.

In: the files of a run directory, and nothing else. Out: a page without scripts and without
requests, light or dark as the reader's machine is, readable on a phone. All text of records and
recipes is escaped by the template engine. Words come from `verdict.py` and `advice.py`, drawings
from `plots.py`; what is here is the choice of what to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from markupsafe import Markup

from tunesmith.evidence import figures, plots
from tunesmith.evidence.advice import advise
from tunesmith.evidence.files import Evidence, Example, Metrics, Summary, read_evidence
from tunesmith.evidence.page import render_page, write_page
from tunesmith.evidence.tradeoff import drawing, sentence
from tunesmith.evidence.utilisation import utilisation
from tunesmith.evidence.verdict import state

SHOWN_EXAMPLES = 10
FILE_NAME = "report.html"


def write_report(run_dir: Path) -> Path:
    """Write the report of a finished run into its directory; return its path.

    Raises:
        InputError: a file of the run is missing or damaged.
        RunError: the directory cannot be written.
    """
    page = render(read_evidence(run_dir))
    path = run_dir / FILE_NAME
    fix = f"Make room or set the permissions, then: tunesmith report {quote(str(run_dir))}"
    write_page(page, path, called="report", fix=fix)
    return path


def render(evidence: Evidence) -> str:
    """Return the page."""
    return render_page(
        "report.html.jinja",
        ("report.css",),
        figures=figures,
        summary=evidence.summary,
        statement=state(evidence.metrics),
        metrics=evidence.metrics,
        advice=advise(evidence),
        interval_plot=_interval_plot(evidence.metrics),
        rows=_rows(evidence.metrics),
        curves=_curves(evidence),
        utilisation=utilisation(evidence.summary),
        tradeoff_plot=drawing(evidence.tradeoff) if evidence.tradeoff else None,
        tradeoff=sentence(evidence.tradeoff) if evidence.tradeoff else None,
        changes=_changes(evidence),
        facts=_facts(evidence.summary),
        parts=_parts(evidence.summary),
        memory=_memory(evidence.summary),
        recipe=evidence.recipe,
    )


@dataclass(frozen=True)
class Row:
    """One line of the table before and after."""

    name: str
    description: str
    unit: str
    before: str
    after: str
    difference: str
    interval: str
    p_value: str
    records: str
    judgement: str
    verdict: str
    deciding: bool


def _rows(metrics: Metrics) -> list[Row]:
    rows = []
    for name, row in metrics.ordered.items():
        deciding = name in metrics.decide
        verdict = metrics.verdict if name == metrics.primary else row.verdict
        p_value = row.p_value if deciding and not metrics.members else row.p_holm
        rows.append(
            Row(
                name=figures.label(name),
                description=row.description + ("" if row.higher_is_better else "; lower is better"),
                unit=row.unit,
                before=figures.number(row.before),
                after=figures.number(row.after),
                difference=figures.number(row.difference, signed=True),
                interval=figures.interval(row.interval),
                p_value=figures.probability(p_value),
                records=figures.count(row.n),
                judgement=verdict,
                verdict=verdict.replace(" ", "-"),
                deciding=deciding,
            )
        )
    return rows


@dataclass(frozen=True)
class Chosen:
    """The examples that changed most, for better and for worse."""

    best: list[Example]
    worst: list[Example]
    answered: bool
    out_of: int


def choose_examples(examples: Sequence[Example], shown: int = SHOWN_EXAMPLES) -> Chosen:
    """Choose those that changed most, at most `shown` each way, none in both lists.

    Where some records were answered for real and others were not, only the former are shown: a
    figure without an answer cannot be read.
    """
    answered = [example for example in examples if example.after is not None]
    pool = sorted(answered or examples, key=lambda example: -example.improvement)
    best = [example for example in pool if example.improvement > 0][:shown]
    rest = pool[len(best) :]
    worst = rest[::-1][:shown]
    return Chosen(best, worst, bool(answered), len(pool))


def _interval_plot(metrics: Metrics) -> Markup | None:
    row = metrics.deciding
    low, high = row.interval
    if row.difference is None or low is None or high is None:
        return None
    title = (
        f"Difference in {figures.label(metrics.primary)}: "
        f"{figures.number(row.difference, signed=True)}, interval {figures.interval(row.interval)}"
    )
    return Markup(
        plots.interval(
            "interval", title, row.difference, (low, high), better_is_up=row.higher_is_better
        )
    )


@dataclass(frozen=True)
class Changes:
    """How records changed in the metric that decides: of several tasks, in that of one.

    Attributes:
        name: identifies it in the page.
        heading: what stands above it.
    """

    name: str
    heading: str
    metric: str
    improved: int
    measured: int
    plot: Markup | None
    chosen: Chosen


def _changes(evidence: Evidence) -> list[Changes]:
    found: list[Changes] = []
    of_metric = {m.primary: name for name, m in evidence.metrics.members.items()}
    for metric in evidence.metrics.decide:
        examples = [example for example in evidence.examples if example.metric == metric]
        if not examples:
            continue
        name = "examples" + f"-{len(found) + 1}" * bool(found)
        member = of_metric.get(metric)
        found.append(
            Changes(
                name=name,
                heading="Which records changed" + (f": {member}" if member else ""),
                metric=figures.label(metric),
                improved=sum(example.improvement > 0 for example in examples),
                measured=len(examples),
                plot=_changes_plot(name, examples),
                chosen=choose_examples(examples),
            )
        )
    return found


def _changes_plot(name: str, examples: Sequence[Example]) -> Markup | None:
    if len(examples) < 2 or not any(example.improvement for example in examples):
        return None
    title = "Change of each test record, from the worst to the best"
    improvements = [example.improvement for example in examples]
    return Markup(plots.changes(name.replace("examples", "changes"), title, improvements))


def _curves(evidence: Evidence) -> list[tuple[str, Markup]]:
    """Draw what there is a course of; a technique that fits at once has none."""
    if len(evidence.steps) < 2:
        return []
    losses = [plots.Line("training", _points(evidence, "loss"), raw=True)]
    validation = evidence.validation_losses()
    if validation:
        losses.append(plots.Line("validation", validation, marks=True))
    best = evidence.kept_step
    mark = (float(best), "kept") if best is not None and validation else None
    drawn = [("Loss", Markup(plots.curve("loss", "Loss over the steps", losses, mark=mark)))]
    for number, member in enumerate(evidence.metrics.members):
        title = f"What {member} adds to the loss"
        line = plots.Line(member, _added(evidence, member), raw=True)
        if len(line.points) > 1:
            drawn.append((title, Markup(plots.curve(f"loss-{number}", title, [line]))))
    for field, title in (
        ("learning_rate", "Learning rate"),
        ("gradient_norm", "Gradient norm"),
        ("tokens_per_second", "Tokens per second"),
    ):
        points = _points(evidence, field)
        if points:
            line = plots.Line(title.lower(), points, raw=field != "learning_rate")
            name = field.replace("_", "-")
            drawn.append((title, Markup(plots.curve(name, f"{title} over the steps", [line]))))
    shares = [(step, 100 * share) for step, share in _points(evidence, "mfu")]
    if shares:
        title = "Model FLOPs utilisation, %"
        line = plots.Line("utilisation", shares, raw=True)
        drawn.append((title, Markup(plots.curve("mfu", f"{title}, over the steps", [line]))))
    return drawn


def _added(evidence: Evidence, member: str) -> list[tuple[float, float]]:
    """What one of several tasks adds to the loss, in the steps that learn of it."""
    found = []
    for event in evidence.steps:
        terms = event.get("terms") or {}
        own = [float(value) for name, value in terms.items() if name.startswith(f"{member}/")]
        if own:
            found.append((float(event["step"]), sum(own)))
    return found


def _points(evidence: Evidence, field: str) -> list[tuple[float, float]]:
    return [
        (float(event["step"]), float(event[field]))
        for event in evidence.steps
        if event.get(field) is not None
    ]


def _facts(summary: Summary) -> list[tuple[str, str]]:
    model = summary.model
    share = summary.trainable_parameters / model.parameters if model.parameters else 0.0
    hardware = summary.hardware
    facts = [
        ("Model", f"{model.name}, {figures.many(model.parameters)} parameters, {model.kind}"),
        ("Fingerprint of its weights", model.fingerprint),
        ("Surgery", " ".join(summary.surgery)),
        ("Task", figures.label(summary.task)),
        ("Technique", figures.label(summary.technique)),
        *summary.technique_facts.items(),
        *summary.retain.items(),
        (
            "Learns",
            f"{figures.count(summary.trainable_parameters)} parameters"
            f" ({share:.2%} of the model's number)",
        ),
        ("Steps", figures.count(summary.steps) + (", stopped early" * summary.stopped_early)),
        ("Tokens", figures.count(summary.tokens)),
        ("Learning took", figures.duration(summary.seconds)),
        ("Tokens per second", figures.count(summary.tokens_per_second)),
        ("Waited for records", "" if summary.waited is None else figures.share(summary.waited)),
        *_speed_facts(summary),
        ("Processor", str(hardware.get("cpu") or figures.NONE)),
        ("Cores", str(hardware.get("cores") or figures.NONE)),
        ("GPU", str(hardware.get("gpu") or "none")),
    ]
    if hardware.get("features"):
        facts.append(("Instruction sets", ", ".join(map(str, hardware["features"]))))
    return [(name, value) for name, value in facts if value]


def _speed_facts(summary: Summary) -> list[tuple[str, str]]:
    if summary.mfu is None or summary.roof is None:
        return []
    roof = figures.rate(summary.roof.flops_per_second, "FLOP/s")
    return [("FLOPs utilisation (MFU)", f"{figures.share(summary.mfu)} of {roof}")]


def _parts(summary: Summary) -> list[dict[str, Any]]:
    data = summary.data
    parts = (("train", data.train), ("validation", data.validation), ("test", data.test))
    return [
        {
            "name": name,
            "file": part.file if isinstance(part.file, str) else ", ".join(part.file),
            "records": figures.count(part.records),
            "tokens": figures.count(part.tokens),
            "trained": figures.count(part.trained_tokens),
        }
        for name, part in parts
        if part is not None
    ]


def _memory(summary: Summary) -> list[tuple[str, str, float]]:
    """Return (name, size, share of the larger one) of the predicted and the measured peak."""
    sizes = {"predicted": summary.predicted_memory_bytes, "measured": summary.peak_memory_bytes}
    known = {name: size for name, size in sizes.items() if size}
    largest = max(known.values(), default=1)
    return [(name, figures.size(size), size / largest) for name, size in known.items()]
