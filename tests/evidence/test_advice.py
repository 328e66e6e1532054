"""What the figures suggest, and that they suggest nothing where there is nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tests.evidence.conftest import METRICS, Build, made_up_events

from tunesmith.evidence.advice import advise
from tunesmith.evidence.files import read_evidence


def with_validation(losses: list[float]) -> list[dict[str, Any]]:
    """Return the events of a run whose validation losses are these."""
    steps = [event for event in made_up_events() if "validation" not in event]
    every = len(steps) // len(losses)
    return steps + [
        {"step": every * (place + 1), "validation": {"loss": loss}}
        for place, loss in enumerate(losses)
    ]


def advice(fake_run: Build, **changes: Any) -> str:
    return " ".join(advise(read_evidence(fake_run(**changes))))


def test_a_run_that_went_well_and_levelled_off_gets_no_advice(fake_run: Build) -> None:
    exact_match = {"interval": [0.04, 0.2], "better": True}
    events = with_validation([2.0, 1.7, 1.695])
    assert not advice(fake_run, events=events, metrics={"metrics": {"exact_match": exact_match}})


def test_a_rising_validation_loss_is_called_overfitting(fake_run: Build) -> None:
    said = advice(fake_run, events=with_validation([2.0, 1.7, 1.9]))
    assert "lowest at step 30 (1.700) and ended at 1.900" in said
    assert "keep_best" in said


def test_a_state_kept_by_validation_is_mentioned_in_its_place(fake_run: Build) -> None:
    run_dir = fake_run(events=with_validation([2.0, 1.7, 1.9]), summary={"best_step": 30})
    (run_dir / "recipe.yaml").write_text("training: {keep_best: true}")
    said = " ".join(advise(read_evidence(run_dir)))
    assert "of step 30 is the one that was kept" in said


def test_the_best_step_of_a_run_that_kept_the_last_is_not_called_kept(fake_run: Build) -> None:
    events = with_validation([2.0, 1.7, 1.9])
    assert "was kept" not in advice(fake_run, events=events, summary={"best_step": 30})


def test_a_falling_validation_loss_suggests_more(fake_run: Build) -> None:
    assert "still falling" in advice(fake_run, events=with_validation([2.5, 2.2, 1.9]))


def test_a_run_that_stopped_early_is_not_told_to_go_on(fake_run: Build) -> None:
    events = with_validation([2.5, 2.2, 1.9])
    assert "still falling" not in advice(fake_run, events=events, summary={"stopped_early": True})


def test_a_rising_training_loss_points_at_the_learning_rate(fake_run: Build) -> None:
    events = [{"step": step, "loss": 2.0 + step / 10} for step in range(1, 31)]
    assert "learning rate may be too high" in advice(fake_run, events=events)


def test_identical_metrics_mean_that_nothing_moved(fake_run: Build) -> None:
    same = {name: {"after": row["before"]} for name, row in METRICS["metrics"].items()}
    said = advice(fake_run, metrics={"verdict": "no evidence", "metrics": same})
    assert "exactly what it was before" in said


def test_likelihood_without_right_answers_is_called_form(fake_run: Build) -> None:
    rouge = {"interval": [-0.1, 0.3], "better": None}
    said = advice(fake_run, metrics={"metrics": {"rouge_l": rouge}})
    assert "not which are right" in said


def test_right_answers_are_not_called_form(fake_run: Build) -> None:
    assert "not which are right" not in advice(fake_run)


def test_much_forgetting_is_named(fake_run: Build) -> None:
    assert "rose by 40.0%" in advice(fake_run, metrics={"probe": {"before": 20.0, "after": 28.0}})


def test_cut_records_are_counted(fake_run: Build) -> None:
    said = advice(fake_run, summary={"data": {"cut": 12, "dropped": 3}})
    assert "12 were cut to fit and 3 were left out" in said


def test_a_test_that_is_too_small_is_told_how_large_it_should_be(fake_run: Build) -> None:
    row = {"difference": 0.05, "interval": [-0.05, 0.15], "detectable": 0.1, "n": 100}
    said = advice(fake_run, metrics={"verdict": "no evidence", "metrics": {"log_likelihood": row}})
    assert "about 400 test records" in said


OF_CLASSES = {"data": {"classes": {"good": 10, "bad": 8}}}


@pytest.mark.parametrize(
    ("summary", "new"),
    [({"new_head": True}, True), (OF_CLASSES, True), ({}, False),
     (OF_CLASSES | {"new_head": False}, False)],
)  # fmt: skip
def test_a_new_head_makes_the_figure_before_a_guess(
    fake_run: Build, summary: dict[str, Any], new: bool
) -> None:
    assert ("figure before is a guess" in advice(fake_run, summary=summary)) == new
