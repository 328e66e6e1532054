"""From outcomes to rows: medians, ratios within a round, sides that never finished."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.summary import summarise

JOB = {"kind": "lora", "targets": 50, "epochs": 1}


def outcome(side: str, number: int, speed: float, **changes: Any) -> dict[str, Any]:
    return {
        "side": side,
        "title": side.title(),
        "round": number,
        "status": "finished",
        "targets": 50,
        "tokens_per_second": speed,
        "seconds_to_finished": 1000 / speed,
        "peak_memory_bytes": 100,
        "held_out_loss": 1.5,
        **changes,
    }


def test_a_ratio_is_taken_within_each_round() -> None:
    slow_machine = [outcome("tunesmith", 1, 50), outcome("trl", 1, 10)]
    found = summarise(
        [outcome("tunesmith", 0, 200), outcome("trl", 0, 50), *slow_machine], JOB
    )  # fmt: skip
    assert found[1]["speed_ratio"] == {"median": 4.5, "least": 4.0, "most": 5.0}
    assert found[1]["finished_ratio"] == {"median": 4.5, "least": 4.0, "most": 5.0}
    assert "speed_ratio" not in found[0]


def test_medians_come_with_the_smallest_and_the_largest() -> None:
    found = summarise([outcome("tunesmith", n, speed) for n, speed in enumerate((3, 9, 4))], JOB)
    assert found[0]["tokens_per_second"] == {"median": 4, "least": 3, "most": 9}
    assert found[0]["rounds"] == 3


def test_a_side_that_learnt_other_tokens_is_found_out() -> None:
    found = summarise([outcome("tunesmith", 0, 1), outcome("trl", 0, 1, targets=64)], JOB)
    assert [row["same_targets"] for row in found] == [True, False]


def test_a_side_that_failed_keeps_its_row_its_error_and_what_it_reached() -> None:
    failed = {
        "side": "peer",
        "title": "Peer",
        "round": 0,
        "status": "failed",
        "error": "RuntimeError: no GPU",
        "tokens": 12,
    }
    again = {**failed, "round": 1, "status": "not repeated", "error": "failed in the first round"}
    found = summarise([outcome("tunesmith", 0, 1), failed, again], JOB)
    assert found[1]["status"] == "failed"
    assert found[1]["error"] == "RuntimeError: no GPU"
    assert found[1]["tokens"] == 12
    assert found[1]["rounds"] == 0
