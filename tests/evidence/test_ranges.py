"""How far two figures can lie apart: known of every metric with bounds, and of no other name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tunesmith.evidence.ranges import WIDEST, exists
from tunesmith.registry import TASKS

FOUND_IN_RECORDS: dict[str, list[dict[str, Any]]] = {
    "classification": [{"labels": ["a", "b"]}],
    "embedding": [{"scored": False, "wrong": 1}, {"scored": True, "wrong": 0}],
    "extraction": [{"silent": True}, {"silent": False}],
    "multi_label": [{"labels": ["a", "b"]}],
    "tagging": [{"labels": ["a", "b"]}],
}
"""What a task may have found in its records, on which its metrics depend."""

WITHOUT_BOUNDS = {
    "bits_per_byte", "log_likelihood", "mean_absolute_error", "perplexity", "r_squared",
    "root_mean_squared_error",
}  # fmt: skip


def registered() -> Iterator[str]:
    """Yield the metrics of every task but `multitask`, whose are those of its members."""
    for name in set(TASKS.names()) - {"multitask"}:
        kind = TASKS.get(name)
        for state in FOUND_IN_RECORDS.get(name, [None]):
            task = kind(kind.Options())
            if state is not None:
                task.load_state(state)
            yield from (metric.partition("[")[0] for metric in task.metrics)


def test_every_metric_of_every_task_has_bounds_or_is_known_to_have_none() -> None:
    assert set(registered()) == set(WIDEST) | WITHOUT_BOUNDS
    assert not WIDEST.keys() & WITHOUT_BOUNDS


def test_the_task_before_a_name_and_the_label_after_it_change_nothing() -> None:
    assert not exists("names/f1[city]", 1.5)
    assert exists("names/f1[city]", -1.0)
    assert exists("names/log_likelihood", 1.5)
