"""Reading the directory of a run."""

from __future__ import annotations

import pytest
from tests.evidence.conftest import Build

from tunesmith.errors import InputError
from tunesmith.evidence.files import read_evidence


def test_steps_and_validations_are_told_apart(fake_run: Build) -> None:
    evidence = read_evidence(fake_run())
    assert len(evidence.steps) == 46
    assert [step for step, _ in evidence.validation_losses()] == [15, 30, 45, 46]


def test_a_validation_loss_is_minus_the_log_likelihood(fake_run: Build) -> None:
    events = [{"step": 3, "validation": {"log_likelihood": -1.5, "accuracy": 0.5}}]
    assert read_evidence(fake_run(events=events)).validation_losses() == [(3, 1.5)]


def test_an_improvement_has_its_sign_turned_where_less_is_better(fake_run: Build) -> None:
    row = {"index": 0, "origin": "t:1", "prompt": "p", "reference": "r", "change": -0.5}
    less_is_better = {"metrics": {"log_likelihood": {"higher_is_better": False}}}
    evidence = read_evidence(fake_run(examples=[row], metrics=less_is_better))
    assert evidence.examples[0].improvement == 0.5


def test_a_record_without_a_change_is_left_out(fake_run: Build) -> None:
    rows = [
        {"index": 0, "origin": "t:1", "prompt": "p", "reference": "r", "change": 0.5},
        {"index": 1, "origin": "t:2", "prompt": "p", "reference": "r", "change": None},
        {"index": 2, "origin": "t:3", "prompt": "p", "reference": "r", "change": float("nan")},
    ]
    origins = [example.origin for example in read_evidence(fake_run(examples=rows)).examples]
    assert origins == ["t:1"]


def test_an_unfinished_run_says_so(fake_run: Build) -> None:
    run_dir = fake_run()
    (run_dir / "summary.json").unlink()
    with pytest.raises(InputError, match=r"no summary.json: it has not finished"):
        read_evidence(run_dir)


def test_another_schema_version_is_refused(fake_run: Build) -> None:
    with pytest.raises(InputError, match="schema version 2"):
        read_evidence(fake_run(summary={"schema_version": 2}))


def test_a_damaged_file_is_named_with_its_field(fake_run: Build) -> None:
    with pytest.raises(InputError, match=r"metrics.json: It is damaged: verdict"):
        read_evidence(fake_run(metrics={"verdict": "splendid"}))


def test_a_deciding_metric_that_was_not_measured_is_an_error(fake_run: Build) -> None:
    with pytest.raises(InputError, match="'bleu' was not measured"):
        read_evidence(fake_run(metrics={"primary": "bleu"}))


def test_a_damaged_recipe_is_named(fake_run: Build) -> None:
    run_dir = fake_run()
    (run_dir / "recipe.yaml").write_text("model: {")
    with pytest.raises(InputError, match=r"recipe.yaml: It is damaged"):
        read_evidence(run_dir)
