"""From the outcomes of all rounds to one row a side: medians, spreads, and Tunesmith's ratio to it.

A ratio is taken within each round and the median of those is given with the smallest and largest,
so that what slows the whole machine for a while falls on both sides of it. A side that never
finished keeps its row: what happened, and what it had reached.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.measure import FINISHED
from benchmarks.peers.sides import OURS

Row = dict[str, Any]
FIGURES = (
    "tokens_per_second",
    "seconds_to_finished",
    "peak_memory_bytes",
    "gpu_peak_bytes",
    "held_out_loss",
    "held_out_accuracy",
)


def summarise(outcomes: Sequence[Mapping[str, Any]], job: Mapping[str, Any]) -> list[Row]:
    """Return a row a side, in the order in which they first ran."""
    sides = dict.fromkeys(outcome["side"] for outcome in outcomes)
    ours = {o["round"]: o for o in outcomes if o["side"] == OURS and o["status"] == FINISHED}
    return [_row([o for o in outcomes if o["side"] == side], ours, job) for side in sides]


def _row(
    outcomes: Sequence[Mapping[str, Any]],
    ours: Mapping[int, Mapping[str, Any]],
    job: Mapping[str, Any],
) -> Row:
    first, done = outcomes[0], [o for o in outcomes if o["status"] == FINISHED]
    row: Row = {"side": first["side"], "title": first["title"], "status": first["status"]}
    row["rounds"] = len(done)
    if not done:
        kept = ("error", "stage", "stopped_after_seconds", "tokens", "batches", "tokens_per_second")
        return row | {name: first[name] for name in kept if first.get(name) is not None}
    for name in FIGURES:
        values = [o[name] for o in done if o.get(name) is not None]
        if values:
            row[name] = spread(values)
    row["targets"] = done[0]["targets"]
    if done[0].get("notes"):
        row["notes"] = done[0]["notes"]
    if job["kind"] != "head":  # where those who encode once count each text once
        expected = job["targets"] * job["epochs"]
        row["same_targets"] = all(o["targets"] == expected for o in done)
    pairs = [(ours[o["round"]], o) for o in done if o["round"] in ours]
    ratios = {
        "speed_ratio": [(a, b, "tokens_per_second") for a, b in pairs],
        "finished_ratio": [(b, a, "seconds_to_finished") for a, b in pairs],
        "memory_ratio": [(a, b, "peak_memory_bytes") for a, b in pairs],
    }
    for name, of in ratios.items():
        values = [a[key] / b[key] for a, b, key in of if a.get(key) and b.get(key)]
        if values and first["side"] != OURS:
            row[name] = spread(values)
    return row


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}
