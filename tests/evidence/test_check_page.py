"""The page of a check: what is in it, that nothing can be put into it, that it needs nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.evidence.test_report import HOSTILE, Page

from tunesmith.errors import RunError
from tunesmith.evidence.check_page import SHOWN, facts, render_check, write_check_page

PART = {"records": 80, "tokens": 900, "trained_tokens": 300, "shortest": 3, "median": 9.0,
        "longest": 30}  # fmt: skip


def finding(kind: str, number: int = 1) -> dict[str, Any]:
    return {
        "kind": kind,
        "part": "train",
        "origin": f"train.jsonl:{number}",
        "reason": f"for a reason, number {number}",
        "suggestion": None,
        "text": HOSTILE,
    }


def deep(*findings: dict[str, Any]) -> dict[str, Any]:
    looks = [
        {
            "kind": kind,
            "means": f"what {kind} means",
            "records": 80,
            "found": sum(one["kind"] == kind for one in findings),
            "remark": "",
        }
        for kind in ("duplicate", "wrong_label")
    ]
    return {
        "looks": looks,
        "findings": list(findings),
        "languages": {"en": 70, "unsure": 10},
        "classes": {"train": {"good": 50, "bad": 30}},
        "lengths": {"edges": [1.0, 5.0, 9.0], "counts": [60, 20]},
        "encoder": "an-encoder",
    }


def document(**changes: Any) -> dict[str, Any]:
    return {
        "model": "a-model", "kind": "decoder", "task": "instruct", "technique": "lora",
        "format": "alpaca", "ignored": [], "train": PART, "validation": None, "test": PART,
        "parameters": 1000, "trainable_parameters": 10, "steps": 10, "memory_bytes": 2**30,
        "seconds": None, "metric": "log_likelihood", "detectable": 0.25, "assumption": None,
        "members": {},
        "remarks": ["A remark."], "warnings": ["A warning."], "shown": [], "deep": None,
        **changes,
    }  # fmt: skip


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    shown = [{"origin": "a:1", "tokens": [{"text": HOSTILE, "trained": True}], "learnt": HOSTILE}]
    html = render_check(document(deep=deep(finding("duplicate")), shown=shown), "1")
    page = Page(html)
    assert page.open == []
    assert not page.all("script")
    assert not page.all("img")
    assert not [a for a in page.all("a") if not (a["href"] or "").startswith("#")]
    assert "prefers-color-scheme: dark" in html
    assert "default-src 'none'" in str(page.all("meta"))
    assert HOSTILE in page.text


def test_what_was_looked_for_links_to_what_was_found() -> None:
    page = Page(render_check(document(deep=deep(finding("wrong_label"))), "1"))
    assert [link["href"] for link in page.all("a")] == ["#wrong_label"]
    assert "wrong_label" in {tag.get("id") for tag in page.all("h2")}
    assert "What wrong_label means." in page.text
    assert "for a reason, number 1" in page.text
    assert "good 50" in page.text


def test_of_many_findings_the_clearest_are_shown_and_the_rest_counted() -> None:
    many = [finding("duplicate", number) for number in range(SHOWN + 7)]
    text = Page(render_check(document(deep=deep(*many)), "1")).text
    assert f"number {SHOWN - 1}" in text
    assert f"number {SHOWN} " not in text
    assert "And 7 more" in text


def test_learnt_tokens_are_marked_and_white_space_is_kept() -> None:
    tokens = [{"text": "Say\n  hi.", "trained": False}, {"text": " Hi!", "trained": True}]
    html = render_check(document(shown=[{"origin": "a:1", "tokens": tokens, "learnt": None}]), "1")
    assert re.search(r'<span class="read">Say\n  hi\.</span><span class="learnt"> Hi!</span>', html)


def test_without_a_close_look_there_is_no_section_for_it() -> None:
    text = Page(render_check(document(), "1")).text
    assert "What was looked for" not in text
    assert "A warning." in text
    assert "a difference of 0.250 or more" in text


def test_a_place_that_cannot_be_written_is_said_and_nothing_left_there(tmp_path: Path) -> None:
    (tmp_path / "check.html").mkdir()
    with pytest.raises(RunError, match="could not be written"):
        write_check_page(document(), tmp_path / "check.html", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["check.html"]


@pytest.mark.parametrize("metric", ["accuracy", "topic/macro_f1", "f1[a/b]"])
def test_a_test_that_can_show_no_difference_that_exists_shows_nothing(metric: str) -> None:
    found = facts(document(metric=metric, detectable=4.45, assumption="much changes"))
    assert found["could show"] == "nothing: the test records are too few"
    found = facts(document(metric=metric, detectable=0.5))
    assert found["could show"] == "a difference of 0.500 or more"


def test_of_several_tasks_each_is_named_with_what_its_own_test_could_show() -> None:
    members = {
        "chat": {"task": "instruct", "metric": "chat/log_likelihood", "test_records": 8,
                 "detectable": 0.25, "assumption": "much changes"},
        "mood": {"task": "classification", "metric": "mood/accuracy", "test_records": 2,
                 "detectable": 1.4, "assumption": None},
    }  # fmt: skip
    found = facts(document(task="multitask", metric=None, detectable=None, members=members))
    assert found["task"] == "multitask: chat (instruct), mood (classification)"
    assert found["verdict by"] == "the worst of chat/log likelihood, mood/accuracy"
    assert found["could show"] == (
        "chat/log likelihood: a difference of 0.250 or more, if much changes; mood/accuracy:"
        " nothing: the test records are too few"
    )
