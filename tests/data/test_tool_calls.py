"""Calls of tools in the templates of real families: what is learnt, and that use is as training."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.data.families import FAMILIES, answers, family_tokenizer

from tunesmith.data.chat import ChatEncoder
from tunesmith.data.records import Message

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Says what the weather is.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "where"}},
                "required": ["city"],
            },
        },
    }
]
CALL = {
    "type": "function",
    "id": "callcall1",
    "function": {"name": "weather", "arguments": {"city": "Lisbon"}},
}
TURNS = [
    Message(role="user", content="How is it in Lisbon?"),
    Message(role="assistant", tool_calls=[CALL]),
    Message(role="tool", content="sunny", name="weather", tool_call_id="callcall1"),
    Message(role="assistant", content="Fine today."),
    Message(role="user", content="Thanks"),
    Message(role="assistant", content="Gladly."),
]
CALLING = [family for family in FAMILIES if ChatEncoder(family_tokenizer(family)).facts.calls]
OFFERING = [f for f in CALLING if ChatEncoder(family_tokenizer(f)).facts.tools]


def learnt(family: str, stream: Any) -> list[str]:
    tokenizer = family_tokenizer(family)
    return [tokenizer.decode(stream.ids[first:end]) for first, end in answers(stream)]


def plain(encoder: ChatEncoder, turns: list[Message]) -> list[dict[str, Any]]:
    """Messages as a user of transformers would write them for this template."""
    said = [turn.model_dump(exclude_none=True) for turn in turns]
    for turn in said:
        if encoder.facts.in_parts:
            turn["content"] = [{"type": "text", "text": turn["content"]}]
        for call in turn.get("tool_calls", ()) if encoder.facts.text_arguments else ():
            arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
            call["function"] = {**call["function"], "arguments": arguments}
    return said


def test_most_families_have_a_place_for_calls_and_tools():
    assert len(CALLING) >= 15
    assert len(OFFERING) >= 12


@pytest.mark.parametrize("family", CALLING)
def test_a_call_is_learnt_and_what_the_tool_says_is_only_read(family):
    stream = ChatEncoder(family_tokenizer(family)).encode(TURNS)
    said = learnt(family, stream)
    assert len(said) == 3
    call, answer, last = said
    assert "weather" in call
    assert "Lisbon" in call
    assert "Fine today." in answer
    assert "Gladly." in last
    assert not any("sunny" in text or "How is it" in text or "Thanks" in text for text in said)


@pytest.mark.parametrize("family", CALLING)
def test_of_the_last_turn_alone_only_that_is_learnt(family):
    tokenizer = family_tokenizer(family)
    every, last = (ChatEncoder(tokenizer, last_only=only).encode(TURNS) for only in (False, True))
    assert last.ids == every.ids
    assert learnt(family, last) == learnt(family, every)[-1:]


@pytest.mark.parametrize("family", CALLING)
def test_a_call_may_be_the_last_turn(family):
    stream = ChatEncoder(family_tokenizer(family), last_only=True).encode(TURNS[:2])
    [call] = learnt(family, stream)
    assert "weather" in call
    assert "Lisbon" in call


@pytest.mark.parametrize("family", OFFERING)
@pytest.mark.parametrize("count", [2, 4, 6])
def test_before_an_answer_stands_what_serving_sends_with_the_tools_on_offer(family, count):
    tokenizer = family_tokenizer(family)
    encoder = ChatEncoder(tokenizer)
    stream = encoder.encode(TURNS[:count], TOOLS)
    served = tokenizer.apply_chat_template(
        plain(encoder, TURNS[: count - 1]), tools=TOOLS, add_generation_prompt=True,
        return_dict=True,
    )["input_ids"]  # fmt: skip
    assert list(stream.ids[: len(served)]) == list(served)
    assert encoder.prompt_ids(TURNS[: count - 1], TOOLS) == list(served)
    assert answers(stream)[-1] == (len(served), len(stream.ids))
    assert "Says what the weather is." in tokenizer.decode(served)


def test_where_only_the_last_turn_is_learnt_a_long_conversation_is_cut_as_ever():
    tokenizer = family_tokenizer("qwen2_5")
    turns = [*TURNS[:4], Message(role="user", content="word " * 40), TURNS[5]]
    for length in (110, 140, 170):
        every, last = (
            ChatEncoder(tokenizer, last_only=only).encode_within(turns, None, length)
            for only in (False, True)
        )
        assert last[0].ids == every[0].ids
        assert last[0].trained() <= every[0].trained()
        assert (last[0].trained() > 0) == (every[0].trained() > 0)
