"""What a run brought, as a document and in words: shared by `train` and `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.console import Console


def outcome(path: Path, metrics: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an `OutcomeDocument`.

    Args:
        path: the run directory.
        metrics: as in `evaluation/metrics.json`.
        summary: as in `summary.json`.
    """
    primary = metrics["primary"]
    row = metrics["metrics"][primary]
    figures = ("before", "after", "difference", "interval", "detectable")
    of_training = (
        "tokens",
        "seconds",
        "tokens_per_second",
        "trainable_parameters",
        "peak_memory_bytes",
    )
    return {
        "run": str(path),
        "verdict": metrics["verdict"],
        "metric": primary,
        "records": row["n"],
        "confidence": metrics["confidence"],
        "metrics": metrics["metrics"],
        "members": metrics.get("members", {}),
        **{name: row[name] for name in figures},
        **{name: summary[name] for name in of_training},
        # runs of earlier versions have none
        "waited": summary.get("waited"),
        "mfu": summary.get("mfu"),
    }


def show_verdict(metrics: Mapping[str, Any], say: Console) -> None:
    """Say the verdict in words, and show every metric before and after."""
    from tunesmith.evidence.figures import count, interval, label, number
    from tunesmith.evidence.files import Metrics
    from tunesmith.evidence.verdict import state

    read = Metrics.model_validate(metrics)
    statement = state(read)
    say.note(f"\n{statement.headline}. {statement.lead}")
    for remark in statement.remarks:
        say.note(f"{remark.title}: {remark.text}")
    rows = [
        [
            f"{label(name)}{'' if row.higher_is_better else ' (lower is better)'}",
            number(row.before),
            number(row.after),
            number(row.difference, signed=True),
            interval(row.interval),
            count(row.n),
        ]
        for name, row in read.ordered.items()
    ]
    say.note("")
    say.table(
        "Before and after, on test records",
        ["metric", "before", "after", "difference", f"{read.confidence:.0%} interval", "records"],
        rows,
    )
