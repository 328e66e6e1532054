"""The verdict in words: what was measured, how sure, what this test could have shown at all.

In: `Metrics`. Out: a `Statement`: a headline, one sentence that carries it, and what must be known
to read it rightly. It says what the figures show and no more; advice is in `advice.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.evidence.figures import capital, count, interval, label, number, share
from tunesmith.evidence.files import MetricRow, Metrics, Noise, Probe
from tunesmith.evidence.ranges import exists

HEADLINES = {
    "improved": "Improved",
    "no evidence": "No evidence of a change",
    "worse": "Worse",
}


@dataclass(frozen=True)
class Remark:
    """One thing to know about a verdict: a short title and a sentence or two."""

    title: str
    text: str


@dataclass(frozen=True)
class Statement:
    """A verdict in words."""

    verdict: str
    headline: str
    lead: str
    remarks: list[Remark]


def state(metrics: Metrics) -> Statement:
    """Put the verdict of a run into words."""
    row = metrics.deciding
    remarks = [
        *([Remark("Each task", _each_task(metrics))] if metrics.members else []),
        Remark("How sure", _how_sure(metrics)),
        Remark("What this test could show", _detectable(metrics)),
    ]
    if metrics.noise is not None and metrics.noise.difference is not None:
        remarks.append(Remark("The instrument itself", _noise(metrics.noise, row)))
    if metrics.probe is not None:
        remarks.append(Remark("What was forgotten", _forgotten(metrics.probe)))
    elif metrics.probe_refusal:
        remarks.append(Remark("What was forgotten", f"Not measured. {metrics.probe_refusal}"))
    if metrics.beside:
        remarks.append(Remark("Beside it", _beside(metrics)))
    if metrics.cautions:
        remarks.append(Remark("With care", _cautions(metrics)))
    return Statement(metrics.verdict, HEADLINES[metrics.verdict], _lead(metrics), remarks)


def _lead(metrics: Metrics) -> str:
    row = metrics.deciding
    unit = f" {row.unit}" if row.unit else ""
    better = "" if row.higher_is_better else " (lower is better)"
    return (
        f"On {count(row.n)} test records that it did not learn from, {label(metrics.primary)}"
        f"{better} {_moved(row.before, row.after)}{unit}."
    )


def _moved(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "could not be measured both before and after"
    if before == after:
        return f"stayed at exactly {number(before)}"
    direction = "rose" if after > before else "fell"
    return f"{direction} from {number(before)} to {number(after)}"


def _how_sure(metrics: Metrics) -> str:
    row = metrics.deciding
    low, high = row.interval
    if low is None or high is None:
        return "No interval could be computed, so nothing can be said."
    outside = not low <= 0 <= high
    says = (
        "Zero lies outside, so chance in the choice of these records does not explain it."
        if outside
        else "Zero lies inside, so chance in the choice of these records could explain it."
    )
    return (
        f"The difference is {number(row.difference, signed=True)}; its"
        f" {metrics.confidence:.0%} interval is {interval(row.interval)}, from"
        f" {count(metrics.resamples)} paired resamples of the test records. {says}"
        " It speaks of this one training run, not of what another seed would give."
    )


def _detectable(metrics: Metrics) -> str:
    row = metrics.deciding
    if row.detectable is None:
        return "The smallest difference that this test could have shown is not known."
    if exists(metrics.primary, row.detectable):
        text = (
            f"With {count(row.n)} records, a true difference of {number(row.detectable)} would be"
            " found four times in five; smaller ones are often missed."
        )
    else:
        text = (
            f"With {count(row.n)} records, even the largest difference in {label(metrics.primary)}"
            " that there can be would not be found four times in five: they are too few to tell."
        )
    if metrics.verdict == "no evidence":
        text += (
            " So this is no proof that nothing changed: the figures agree with every difference"
            f" from {interval(row.interval)}. More test records would tell."
        )
    return text


def _noise(noise: Noise, row: MetricRow) -> str:
    spread = abs(noise.difference or 0.0)
    measured = f"{label(noise.metric)} of the same model was measured twice on {noise.records}"
    if not spread:
        return f"{capital(measured)} records and came out the same to the last digit."
    text = f"{capital(measured)} records and differed by {number(spread)}."
    if row.difference is not None and abs(row.difference) <= spread:
        return text + " The difference above is no larger than that: read nothing into it."
    return text


def _forgotten(probe: Probe) -> str:
    if not probe.before or probe.after is None:
        return f"{capital(probe.unit)} on {probe.name} was not measured."
    change = probe.after / probe.before - 1
    text = (
        f"{capital(probe.unit)} on general text ({probe.name}, {count(probe.tokens)} tokens, not"
        f" part of the data) went from {number(probe.before)} to {number(probe.after)}"
        f" ({share(change, signed=True)})."
    )
    if probe.worse is False:
        return text + " There is no evidence that general text became harder for it."
    if change > 0:
        return text + " It predicts general text that much worse than before."
    return text


def _each_task(metrics: Metrics) -> str:
    """Say what each of several tasks came to; the whole is called after the worst of them."""
    said = []
    for name, member in metrics.members.items():
        row = metrics.metrics[member.primary]
        figures = f"{label(member.primary.partition('/')[2])} {number(row.before)} → "
        said.append(
            f"{name}: {HEADLINES[member.verdict].lower()} ({figures}{number(row.after)},"
            f" difference {interval(row.interval)}, {count(row.n)} records)"
        )
    return (
        f"{'; '.join(said)}. The verdicts are corrected for being {len(said)}, and the headline is"
        " that of the worst."
    )


def _beside(metrics: Metrics) -> str:
    """Say of the other metrics which way they went, corrected for being several."""
    found: dict[str, list[str]] = {"improved": [], "worse": [], "no evidence": []}
    for name, row in metrics.beside.items():
        found[row.verdict].append(_named(name, row, metrics.deciding))
    said = [
        f"{title}: {', '.join(names)}"
        for title, names in zip(
            ("improved", "worse", "no evidence of a change"), found.values(), strict=True
        )
        if names
    ]
    text = capital("; ".join(said)) + " (corrected for looking at several)."
    task = metrics.primary.rpartition("/")[0]
    generated = [
        row
        for name, row in metrics.beside.items()
        if row.generated and name.rpartition("/")[0] == task
    ]
    if generated and not metrics.deciding.generated:
        text += (
            f" A better {label(metrics.primary)} means that such answers surprise the model less;"
            " it may have learnt their form and little more. What it writes by itself is what the"
            f" metrics of generation tell, on {count(max(row.n for row in generated))} records."
        )
    return text


def _cautions(metrics: Metrics) -> str:
    """The comparison's own sentences, each once, after the metrics that it is said of."""
    said_of: dict[str, list[str]] = {}
    for caution in metrics.cautions:
        name, _, said = caution.partition(": ")
        said_of.setdefault(said, []).append(label(name))
    return " ".join(f"{capital(', '.join(names))}: {said}" for said, names in said_of.items())


def _named(name: str, row: MetricRow, deciding: MetricRow) -> str:
    figures = f"{label(name)} {number(row.before)} → {number(row.after)}"
    return figures if row.n == deciding.n else f"{figures} on {count(row.n)} records"
