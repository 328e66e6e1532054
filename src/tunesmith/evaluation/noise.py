"""The instrument's own noise: the same weights, measured twice.

On a processor whose sums always run in the same order the difference is zero; where it is not, a
change of that size says nothing. It knows a task and an engine: no run, no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DataError
from tunesmith.evaluation.significance import figures

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.tasks.base import Task


@dataclass(frozen=True)
class Noise:
    """How far two measurements of the same weights lie apart.

    Attributes:
        metric: the primary one.
        difference: of that metric, without sign, in its unit.
        records: that were measured, twice.
        differences: of every metric that was measured.
    """

    metric: str
    difference: float
    records: int
    differences: dict[str, float]

    def as_json(self) -> dict[str, object]:
        """Return the figures as `evaluation/metrics.json` has them."""
        return {
            "metric": self.metric,
            "difference": self.difference,
            "records": self.records,
            "differences": self.differences,
        }


def measure_noise(
    task: Task,
    engine: Engine,
    records: Sequence[Any],
    examples: Sequence[Encoded],
    *,
    primary: str,
    generate: int,
    console: Console,
    tokens_per_batch: int = 4096,
) -> Noise:
    """Measure the same records twice; give validation records, or some to train on, never a test.

    Args:
        primary: the metric that decides; one of generated answers needs `generate` above 0.

    Raises:
        DataError: the primary metric could be measured on none of the records.
    """
    first, second = (
        figures(
            task.measure(
                engine,
                records,
                examples,
                generate=generate,
                console=console,
                tokens_per_batch=tokens_per_batch,
            ),
            task.metrics,
        )
        for _ in range(2)
    )
    if primary not in first:
        raise DataError(
            f"The metric {primary!r}, which decides, could be measured on none of {len(records)}"
            " records.",
            where="evaluation.metric",
            fix="Raise `evaluation.generate`, lower `task.max_new_tokens`, or name another metric.",
        )
    differences = {name: abs(second[name] - value) for name, value in first.items()}
    return Noise(primary, differences[primary], len(records), differences)
