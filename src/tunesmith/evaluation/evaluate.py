"""Scores of a test set as files: `predictions.parquet`, one row a record, and `metrics.json`.

    ExampleScores before, after ──write_predictions──> what each record got and what was answered
    Comparison, noise, probe    ──metrics_json──────> the figures, as the report reads them

It knows scores and comparisons; where the files lie is the caller's choice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.errors import RunError
from tunesmith.evaluation.significance import Comparison, MetricComparison
from tunesmith.models.atomic import unwritable
from tunesmith.tasks.base import ExampleScore, Metric

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.evaluation.noise import Noise
    from tunesmith.evaluation.probe import ProbeComparison
    from tunesmith.tasks.base import Task

SCHEMA_VERSION = 1


def measure(
    task: Task,
    engine: Engine,
    records: Sequence[Any],
    examples: Sequence[Encoded],
    *,
    generate: int,
    console: Console,
    tokens_per_batch: int = 4096,
) -> list[ExampleScore]:
    """Score every record with the weights as they are now, and check that all scores are numbers.

    Raises:
        RunError: a statistic is not finite; names the record by its number.
    """
    scores = task.measure(
        engine,
        records,
        examples,
        generate=generate,
        console=console,
        tokens_per_batch=tokens_per_batch,
    )
    for score in scores:
        for name, value in score.statistics.items():
            if not np.isfinite(value):
                raise RunError(
                    f"The {name} of a record is {value}: the model gives no finite probabilities.",
                    where=f"record {score.index + 1}",
                    fix="Lower `training.learning_rate`.",
                )
    return scores


def per_record(metric: Metric, score: ExampleScore) -> float | None:
    """Return the metric of one record alone; None where it was not measured on it."""
    if not score.statistics.keys() >= set(metric.statistics):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(
            metric.compute({name: np.array(score.statistics[name]) for name in metric.statistics})
        )
    return value if np.isfinite(value) else None


def write_predictions(
    path: Path,
    task: Task,
    records: Sequence[Any],
    origins: Sequence[str],
    before: Sequence[ExampleScore],
    after: Sequence[ExampleScore],
    deciding: Sequence[Metric],
) -> None:
    """Write one row a record: what was asked, what was right, what was answered, what it scored.

    Columns: `index`, `origin`, `prompt`, `reference`, `output_before`, `output_after`,
    `before_<statistic>`, `after_<statistic>`; `metric`, which of those that decide was measured on
    the record, and `change`, that of it on the record alone. What was not measured is null. The
    file is whole or absent.

    Args:
        deciding: the metric that decides; of several tasks, that of each.

    Raises:
        RunError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    shown = [task.present(record) for record in records]
    columns: dict[str, pa.Array] = {
        "index": pa.array([score.index for score in after], pa.int64()),
        "origin": pa.array(list(origins), pa.string()),
        "prompt": pa.array([prompt for prompt, _ in shown], pa.string()),
        "reference": pa.array([reference for _, reference in shown], pa.string()),
        "output_before": pa.array([score.output for score in before], pa.string()),
        "output_after": pa.array([score.output for score in after], pa.string()),
    }
    for prefix, scores in (("before", before), ("after", after)):
        for name in _statistics(scores):
            values = [score.statistics.get(name) for score in scores]
            columns[f"{prefix}_{name}"] = pa.array(values, pa.float64())
    changes = [_decided(deciding, a, b) for a, b in zip(before, after, strict=True)]
    columns["metric"] = pa.array([name for name, _ in changes], pa.string())
    columns["change"] = pa.array([change for _, change in changes], pa.float64())
    aside = path.with_name(path.name + ".tmp")
    try:
        pq.write_table(pa.table(columns), aside)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise unwritable(error, path) from error


def metrics_json(
    comparison: Comparison,
    noise: Noise | None = None,
    probe: ProbeComparison | None = None,
    probe_refusal: str | None = None,
) -> dict[str, Any]:
    """Return a comparison as JSON data: the content of `evaluation/metrics.json`.

    Args:
        probe_refusal: why there is no probe, in words.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": comparison.verdict,
        "primary": comparison.primary,
        "confidence": comparison.confidence,
        "resamples": comparison.resamples,
        "metrics": {name: _row(row) for name, row in comparison.rows.items()},
        "members": {
            name: {"primary": metric, "verdict": comparison.rows[metric].verdict}
            for name, metric in comparison.deciding.items()
        },
        "cautions": list(comparison.cautions),
        "noise": noise.as_json() if noise else None,
        "probe": probe.as_json() if probe else None,
        "probe_refusal": probe_refusal,
    }


def _row(row: MetricComparison) -> dict[str, Any]:
    return {
        "before": row.before,
        "after": row.after,
        "difference": row.difference,
        "interval": list(row.interval),
        "p_value": row.p_value,
        "p_holm": row.p_holm,
        "detectable": row.detectable,
        "n": row.n,
        "changed": row.changed,
        "better": row.better,
        "unit": row.metric.unit,
        "description": row.metric.description,
        "higher_is_better": row.metric.higher_is_better,
        "generated": row.metric.generated,
    }


def _statistics(scores: Iterable[ExampleScore]) -> list[str]:
    """Names of all statistics, in the order in which they first appear."""
    return list(dict.fromkeys(name for score in scores for name in score.statistics))


def _decided(
    deciding: Sequence[Metric], before: ExampleScore, after: ExampleScore
) -> tuple[str | None, float | None]:
    """Return which deciding metric was measured on a record, and how far it moved there."""
    for metric in deciding:
        a, b = per_record(metric, before), per_record(metric, after)
        if a is not None and b is not None:
            return metric.name, b - a
    return None, None
