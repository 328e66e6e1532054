"""The verdict in words."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.evidence.conftest import METRICS

from tunesmith.evidence.files import MetricRow, Metrics
from tunesmith.evidence.verdict import Statement, state


def statement(**changes: Any) -> Statement:
    """Put made-up metrics into words; `row` changes the deciding metric."""
    content = copy.deepcopy(METRICS)
    content["metrics"]["log_likelihood"].update(changes.pop("row", {}))
    content.update(changes)
    return state(Metrics.model_validate(content))


def remark(said: Statement, title: str) -> str:
    return next(remark.text for remark in said.remarks if remark.title == title)


def test_the_lead_says_what_was_measured_on_how_many_and_how_it_moved() -> None:
    lead = statement().lead
    assert "160 test records" in lead
    assert "log likelihood rose from −3.214 to −1.628 nats per token" in lead


def test_a_metric_where_less_is_better_says_so() -> None:
    assert (
        "(lower is better) fell from"
        in statement(row={"before": 2.0, "after": 1.0, "higher_is_better": False}).lead
    )


def test_an_unchanged_metric_is_said_to_be_unchanged() -> None:
    assert "stayed at exactly −3.214" in statement(row={"after": -3.214}).lead


def test_the_interval_comes_with_what_it_means() -> None:
    assert "Zero lies outside" in remark(statement(), "How sure")
    inside = statement(verdict="no evidence", row={"interval": [-0.02, 0.05]})
    assert "Zero lies inside" in remark(inside, "How sure")


def test_no_evidence_is_not_sold_as_proof_of_no_change() -> None:
    said = statement(verdict="no evidence", row={"interval": [-0.02, 0.05], "detectable": 0.07})
    assert said.headline == "No evidence of a change"
    text = remark(said, "What this test could show")
    assert "0.070 would be found four times in five" in text
    assert "no proof that nothing changed" in text
    assert "−0.020 to +0.050" in text


@pytest.mark.parametrize("name", ["accuracy", "topic/accuracy", "f1[city]"])
def test_a_difference_that_cannot_exist_is_not_named(name: str) -> None:
    content = copy.deepcopy(METRICS)
    content["metrics"] = {name: {**content["metrics"]["log_likelihood"], "detectable": 2.526}}
    content |= {"primary": name, "verdict": "no evidence"}
    text = remark(state(Metrics.model_validate(content)), "What this test could show")
    assert "2.526" not in text
    assert "too few to tell" in text
    assert "no proof that nothing changed" in text


def test_what_has_no_bounds_may_differ_by_any_amount() -> None:
    text = remark(statement(row={"detectable": 2.526}), "What this test could show")
    assert "2.526 would be found four times in five" in text


def test_worse_is_said_plainly() -> None:
    said = statement(verdict="worse", row={"after": -3.9, "interval": [-0.8, -0.5]})
    assert said.headline == "Worse"
    assert "fell from −3.214 to −3.900" in said.lead


def test_a_difference_within_the_noise_of_the_instrument_is_named() -> None:
    noise = {"metric": "log_likelihood", "difference": 0.01, "records": 40}
    said = statement(noise=noise, row={"difference": 0.005})
    assert "read nothing into it" in remark(said, "The instrument itself")
    said = statement(noise=noise, row={"difference": 0.5})
    assert "read nothing into it" not in remark(said, "The instrument itself")


def test_forgetting_is_given_as_a_share() -> None:
    probe = {"name": "p", "before": 20.0, "after": 23.0, "tokens": 5000, "worse": True}
    text = remark(statement(probe=probe), "What was forgotten")
    assert "+15.0%" in text
    assert "that much worse than before" in text


def test_forgetting_without_evidence_is_called_so() -> None:
    probe = {"name": "p", "before": 20.0, "after": 20.1, "tokens": 5000, "worse": False}
    text = remark(statement(probe=probe), "What was forgotten")
    assert "no evidence that general text became harder" in text


def test_a_model_that_cannot_be_probed_says_why() -> None:
    said = statement(probe=None, probe_refusal="It has no layer over the vocabulary.")
    assert remark(said, "What was forgotten").endswith("It has no layer over the vocabulary.")


def test_cautions_of_the_comparison_are_passed_on() -> None:
    said = statement(cautions=["exact_match: 2 of 24 records changed."])
    assert remark(said, "With care") == "Exact match: 2 of 24 records changed."


def test_what_is_said_of_several_metrics_is_said_once() -> None:
    changed = "2 of 24 records changed."
    said = statement(cautions=[f"exact_match: {changed}", "bleu: none.", f"rouge_l: {changed}"])
    assert remark(said, "With care") == f"Exact match, ROUGE-L: {changed} BLEU: none."


def test_metrics_of_generation_stand_beside_a_likelihood() -> None:
    text = remark(statement(), "Beside it")
    assert "no evidence of a change: exact match 0 → 0.083 on 24 records" in text
    assert "may have learnt their form and little more" in text


def test_without_generation_nothing_is_said_of_it() -> None:
    content = copy.deepcopy(METRICS)
    content["metrics"] = {
        name: row for name, row in content["metrics"].items() if not row["generated"]
    }
    said = state(Metrics.model_validate(content))
    assert "their form" not in remark(said, "Beside it")


def test_a_missing_interval_supports_nothing() -> None:
    assert "nothing can be said" in remark(statement(row={"interval": [None, None]}), "How sure")


def test_a_row_says_what_the_comparison_found() -> None:
    assert MetricRow(better=True).verdict == "improved"
    assert MetricRow(better=False).verdict == "worse"
    assert MetricRow(better=None).verdict == "no evidence"
