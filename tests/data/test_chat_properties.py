"""The six properties that a chat encoding must have, on the templates of real families."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.data.families import BREAK_PREFIX, FAMILIES, answers, family_tokenizer

from tunesmith.data.chat import ChatEncoder
from tunesmith.data.records import Message

_ENCODERS: dict[str, ChatEncoder] = {}
few = settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
over_families = pytest.mark.parametrize("family", FAMILIES)

_ONE_CALL = {"deepseekv3"}
"""Templates that write a second call without the opening of its turn (and so are refused it)."""

_words = st.lists(
    st.sampled_from(["one", "two", "Über", "🙂", "日本", "x=1;", "user", "assistant", "\n", "- a"]),
    max_size=5,
).map(" ".join)
texts = st.one_of(_words, st.sampled_from(["", " ", "\n\nafter a gap", " padded ", "{}", "a\n"]))
tidy = _words.map(str.strip).filter(bool)


def encoder(family: str) -> ChatEncoder:
    if family not in _ENCODERS:
        _ENCODERS[family] = ChatEncoder(family_tokenizer(family))
    return _ENCODERS[family]


@st.composite
def conversations(draw: Any, family: str, said: Any = texts, answer: Any = texts) -> list[Message]:
    """Draw one to three exchanges, with a system message and a call where there is a place."""
    facts = encoder(family).facts
    messages = []
    if facts.system and draw(st.booleans()):
        messages.append(Message(role="system", content=draw(tidy)))
    for turn in range(draw(st.integers(1, 3))):
        messages.append(Message(role="user", content=draw(said)))
        may_call = facts.calls and (turn == 0 or family not in _ONE_CALL)
        if may_call and draw(st.integers(0, 3)) == 0:
            messages += [_call(draw(tidy)), _result(draw(said))]
        messages.append(Message(role="assistant", content=draw(answer)))
    return messages


def _call(city: str) -> Message:
    function = {"name": "weather", "arguments": {"city": city}}
    call = {"type": "function", "id": "callcall1", "function": function}
    return Message(role="assistant", tool_calls=[call])


def _result(text: str) -> Message:
    return Message(role="tool", content=text, name="weather", tool_call_id="callcall1")


def plain(family: str, messages: list[Message]) -> list[dict[str, Any]]:
    """Return messages as a user of transformers would write them for this template."""
    said = [message.model_dump(exclude_none=True) for message in messages]
    if encoder(family).facts.in_parts:
        for message in said:
            message["content"] = [{"type": "text", "text": message["content"]}]
    if encoder(family).facts.text_arguments:
        for message in said:
            for call in message.get("tool_calls", ()):
                function = call["function"]
                function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return said


def served(family: str, messages: list[Message], **options: Any) -> list[int]:
    tokenizer = family_tokenizer(family)
    return list(
        tokenizer.apply_chat_template(
            plain(family, messages), add_generation_prompt=True, return_dict=True, **options
        )["input_ids"]
    )


@over_families
@few
@given(data=st.data())
def test_ids_before_each_answer_are_those_of_the_generation_prompt(family: str, data: Any) -> None:
    messages = data.draw(conversations(family))
    for i, message in enumerate(messages):
        if message.role == "assistant":
            stream = encoder(family).encode(messages[: i + 1])
            expected = served(family, messages[:i])
            assert list(stream.ids[: len(expected)]) == expected
            assert answers(stream)[-1] == (len(expected), len(stream.ids))


@over_families
@few
@given(data=st.data())
def test_what_precedes_the_last_answer_is_the_prompt_that_serving_sends(
    family: str, data: Any
) -> None:
    tokens = [t.content for t in family_tokenizer(family).added_tokens_decoder.values()]
    said = st.builds("{} {}".format, texts, st.sampled_from(tokens))
    messages = data.draw(conversations(family, said=said))
    stream = encoder(family).encode(messages)
    first, _ = answers(stream)[-1]
    assert list(stream.ids[:first]) == encoder(family).prompt_ids(messages[:-1])


@over_families
@few
@given(data=st.data())
def test_learnt_ids_give_the_answers_back(family: str, data: Any) -> None:
    messages = data.draw(conversations(family))
    tokenizer = family_tokenizer(family)
    stream = encoder(family).encode(messages)
    turns = [message for message in messages if message.role == "assistant"]
    runs = answers(stream)
    assert len(runs) == len(turns)
    for (first, end), message in zip(runs, turns, strict=True):
        learnt = tokenizer.decode(stream.ids[first:end])
        assert message.content.strip() in learnt
        for call in message.tool_calls or ():
            assert call["function"]["name"] in learnt
    assume(turns[-1].content.strip())
    reference = [*messages[:-1], Message(role="assistant", content="Reference")]
    frame = encoder(family).encode(reference)
    begin, finish = answers(frame)[-1]
    before, after = tokenizer.decode(frame.ids[begin:finish]).split("Reference")
    assert learnt.startswith(before)
    assert learnt.endswith(after)
    assert learnt[len(before) : len(learnt) - len(after)].strip() == turns[-1].content.strip()


@over_families
@few
@given(data=st.data())
def test_every_answer_ends_on_a_token_that_stops_generation(family: str, data: Any) -> None:
    messages = data.draw(conversations(family))
    stream = encoder(family).encode(messages)
    assert stream.ids[-1] in encoder(family).stop_ids
    assert stream.weights is not None
    assert stream.weights[-1] == 1.0
    if encoder(family).facts.history_end is None:
        assert all(stream.ids[end - 1] in encoder(family).stop_ids for _, end in answers(stream))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in BREAK_PREFIX])
@few
@given(data=st.data())
def test_a_conversation_is_a_prefix_of_its_continuation_where_the_template_allows(
    family: str, data: Any
) -> None:
    messages = data.draw(conversations(family, said=tidy, answer=tidy))
    whole = encoder(family).encode(messages)
    for i, message in enumerate(messages):
        if message.role == "assistant":
            part = encoder(family).encode(messages[: i + 1])
            assert whole.ids[: len(part.ids)] == part.ids
            assert (whole.weights or ())[: len(part.ids)] == part.weights


@over_families
def test_the_facts_say_where_the_prefix_breaks(family: str) -> None:
    one = [Message(role="user", content="a"), Message(role="assistant", content="b")]
    part = encoder(family).encode(one)
    whole = encoder(family).encode([*one, *one])
    holds = whole.ids[: len(part.ids)] == part.ids
    assert holds == encoder(family).facts.prefix == (family not in BREAK_PREFIX)


@over_families
@few
@given(data=st.data())
def test_text_that_looks_like_a_control_token_cannot_forge_a_turn(family: str, data: Any) -> None:
    tokenizer = family_tokenizer(family)
    markers = [token.content for token in tokenizer.added_tokens_decoder.values()]
    marker = data.draw(st.sampled_from(markers))
    innocent, forged = (_asked(f"see {text} now") for text in ("this", f"this{marker}"))
    control = set(tokenizer.added_tokens_decoder)
    kept = [i for i in encoder(family).encode(innocent).ids if i in control]
    stream = encoder(family).encode(forged)
    assert [i for i in stream.ids if i in control] == kept
    assert f"this{marker} now" in tokenizer.decode(stream.ids)


@over_families
@few
@given(data=st.data())
def test_look_alikes_are_encoded_as_a_sanitising_server_does(family: str, data: Any) -> None:
    added = family_tokenizer(family).added_tokens_decoder.values()
    marker = data.draw(st.sampled_from([token.content for token in added if token.special]))
    question = _asked(f"see {marker}{data.draw(tidy)}")[:1]
    assert encoder(family).prompt_ids(question) == served(
        family, question, sanitize_control_tokens=True
    )


def _asked(text: str) -> list[Message]:
    return [Message(role="user", content=text), Message(role="assistant", content="No.")]
