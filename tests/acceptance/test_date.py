"""A chat template that writes the date: a run keeps that of its first day, whenever it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.acceptance.jobs import ANSWERS, lines, recipe
from tests.interrupting import stopping_at
from tests.tiny import tiny_tokenizer

from tunesmith import api
from tunesmith.data.chat import ChatEncoder
from tunesmith.data.records import Message

DATED = (
    "{% for m in messages %}{% if loop.first %}<|im_start|>system\n"
    "{{ strftime_now('%d %b %Y') }}<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[date], None]:
    """Let it be another day."""

    def on(day: date) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(day.year, day.month, day.day, 12, tzinfo=tz)

        for module in ("tunesmith.data.rendering", "transformers.utils.chat_template_utils"):
            monkeypatch.setattr(f"{module}.datetime", Clock)

    return on


def weights(run: Path) -> dict:
    return load_file(run / "model" / "adapter_model.safetensors")


def test_a_run_that_goes_on_another_day_ends_where_it_would_have(here, command, tiny, on) -> None:
    (here / "train.jsonl").write_text(lines(ANSWERS))
    task = json.dumps({"name": "instruct", "max_new_tokens": 2, "template": DATED})
    (here / "recipe.yaml").write_text(recipe(model=tiny("llama"), task=task))
    on(date(2026, 11, 21))
    assert command("train", "recipe.yaml", "--name", "whole").code == 0
    with stopping_at(1, OSError(28, "No space")):
        assert command("train", "recipe.yaml", "--name", "begun").code == 1
    on(date(2027, 2, 3))
    assert command("train", "--resume", "begun").code == 0
    ours, theirs = weights(here / "runs/begun"), weights(here / "runs/whole")
    assert all(ours[name].equal(theirs[name]) for name in theirs)

    run = api.open_run("whole")
    engine = run.engine()
    assert run.record["task"] == {"date": "2026-11-21"}
    assert "21 Nov 2026" in engine.model.tokenizer.decode(run.task.prompt("hello").ids)
    later = api.evaluate(run).metrics["metrics"]["log_likelihood"]["after"]
    assert later == pytest.approx(run.metrics["metrics"]["log_likelihood"]["after"], abs=1e-5)


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ("%d %b %Y", "05 Jun 1987"),
        ("%Y-%m-%d", "1987-06-05"),
        ("%-d.%-m.", "5.6."),
        ("%A, %B %d", "Friday, June 05"),
        ("100%% %H:%M %d", "100% 00:00 05"),
    ],
)
def test_the_date_is_written_as_the_template_asks(asked: str, written: str) -> None:
    template = DATED.replace("%d %b %Y", asked)
    chat = ChatEncoder(tiny_tokenizer(), template, today=date(1987, 6, 5))
    turns = [Message(role="user", content="Hi"), Message(role="assistant", content="Hello")]
    assert f"<|im_start|>system\n{written}<|im_end|>" in chat.render(turns)
    assert chat.facts.dated
    assert "keeps that of the day on which it began" in " ".join(chat.facts.sentences())


def test_what_is_saved_with_the_model_asks_for_the_date_still() -> None:
    assert ChatEncoder(tiny_tokenizer(), DATED).template == DATED


def test_a_template_without_a_date_keeps_none() -> None:
    assert not ChatEncoder(tiny_tokenizer()).facts.dated
