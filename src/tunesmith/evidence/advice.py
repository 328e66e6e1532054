"""What the figures of a run suggest doing next: short, and only where the figures show it.

In: `Evidence`. Out: sentences, often none. Each rule is one function that returns a sentence or
nothing. Knows no model and no data beyond what the run wrote down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tunesmith.evidence.figures import capital, count, label, number, share
from tunesmith.evidence.files import Evidence

OVERFIT = 0.01
STILL_FALLING = 0.01
MUCH_FORGOTTEN = 0.10


def advise(evidence: Evidence) -> list[str]:
    """Return what the figures suggest, most serious first."""
    rules: tuple[Callable[[Evidence], str | None], ...] = (
        _nothing_moved,
        _loss_rose,
        _overfitting,
        _still_learning,
        _form_only,
        _forgetting,
        _cut,
        _too_small_a_test,
        _new_head,
    )
    return [sentence for rule in rules if (sentence := rule(evidence))]


def _nothing_moved(evidence: Evidence) -> str | None:
    rows = evidence.metrics.metrics.values()
    if any(row.before != row.after for row in rows):
        return None
    return (
        "Every metric is exactly what it was before: what was learnt does not reach the model's"
        " answers. Look at the gradient norm below and at the learning rate."
    )


def _loss_rose(evidence: Evidence) -> str | None:
    losses = _series(evidence.steps, "loss")
    tenth = len(losses) // 10
    if tenth < 1:
        return None
    first, last = (_mean(part) for part in (losses[:tenth], losses[-tenth:]))
    if last <= first:
        return None
    return (
        f"The training loss ended higher than it began ({number(first)} → {number(last)}, first"
        " and last tenth of the steps): the learning rate may be too high."
    )


def _overfitting(evidence: Evidence) -> str | None:
    curve = evidence.validation_losses()
    if len(curve) < 3:
        return None
    best_step, best = min(curve, key=lambda point: point[1])
    last_step, last = curve[-1]
    if best_step == last_step or last < best * (1 + OVERFIT):
        return None
    text = (
        f"The validation loss was lowest at step {best_step} ({number(best)}) and ended at"
        f" {number(last)}: after that the model mostly learnt the training records by heart."
    )
    if evidence.kept_step is not None:
        return f"{text} The state of step {evidence.kept_step} is the one that was kept."
    return f"{text} Train for less, or set `training.keep_best: true`."


def _still_learning(evidence: Evidence) -> str | None:
    curve = evidence.validation_losses()
    if len(curve) < 3 or evidence.summary.stopped_early:
        return None
    (_, before), (_, last) = curve[-2:]
    lowest = min(loss for _, loss in curve)
    if last > lowest or last > before * (1 - STILL_FALLING):
        return None
    return (
        f"The validation loss was still falling at the end ({number(before)} → {number(last)}):"
        " more epochs are likely to help."
    )


def _form_only(evidence: Evidence) -> str | None:
    metrics = evidence.metrics
    generated = {name: row for name, row in metrics.metrics.items() if row.generated}
    if metrics.verdict != "improved" or metrics.deciding.generated or not generated:
        return None
    right = {name: row for name, row in generated.items() if name in ("exact_match", "rouge_l")}
    if not right or any(row.better for row in right.values()):
        return None
    figures = " and ".join(
        f"{label(name)} ({number(row.before)} → {number(row.after)}, {count(row.n)} records)"
        for name, row in right.items()
    )
    return (
        f"{capital(label(metrics.primary))} improved, but there is no evidence that {figures}"
        " did: so far it may have learnt what answers look like, not which are right. Read the"
        " examples below; more records, more epochs or a larger model may carry it further."
    )


def _forgetting(evidence: Evidence) -> str | None:
    probe = evidence.metrics.probe
    if probe is None or not probe.before or probe.after is None:
        return None
    change = probe.after / probe.before - 1
    if change < MUCH_FORGOTTEN or probe.worse is False:
        return None
    return (
        f"{capital(probe.unit)} on {probe.name} rose by {share(change)}. If the model is to"
        " stay good at other things, lower the learning rate, train for less, or let fewer"
        " parameters learn."
    )


def _cut(evidence: Evidence) -> str | None:
    data = evidence.summary.data
    if not data.cut and not data.dropped:
        return None
    parts = [
        f"{count(number_of)} {what}"
        for number_of, what in ((data.cut, "were cut to fit"), (data.dropped, "were left out"))
        if number_of
    ]
    return (
        f"Of the records, {' and '.join(parts)}; `tunesmith check` names each, and says how much"
        " of what should be learnt was lost."
    )


def _too_small_a_test(evidence: Evidence) -> str | None:
    row = evidence.metrics.deciding
    if evidence.metrics.verdict != "no evidence" or not row.detectable or row.difference is None:
        return None
    if not 0 < abs(row.difference) < row.detectable:
        return None
    factor = (row.detectable / abs(row.difference)) ** 2
    if factor > 100:
        return None
    return (
        f"If the true difference is the one seen, about {count(math.ceil(row.n * factor))} test"
        " records would show it four times in five."
    )


def _new_head(evidence: Evidence) -> str | None:
    summary = evidence.summary
    new = bool(summary.data.classes) if summary.new_head is None else summary.new_head
    if not new:
        return None
    return (
        "The head that answers was new at the start, so the figure before is a guess."
        " The one after is what counts; another technique's run is what to compare it with."
    )


def _series(events: list[dict[str, Any]], field: str) -> list[float]:
    return [float(event[field]) for event in events if event.get(field) is not None]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
