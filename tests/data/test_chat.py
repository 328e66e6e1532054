"""The chat encoding, by example: what is learnt, what is cut, what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.data.families import (
    answers,
    family_tokenizer,
    plain_tokenizer,
    sentencepiece_tokenizer,
)

from tunesmith.data.chat import ChatEncoder
from tunesmith.data.display import pieces
from tunesmith.data.lookalikes import ChatTokens
from tunesmith.data.records import Message
from tunesmith.errors import DataError, ModelError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def says(text: str, **fields: Any) -> Message:
    return Message(role="assistant", content=text, **fields)


def chatml() -> Any:
    tokenizer = plain_tokenizer()
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.chat_template = CHATML
    return tokenizer


def learnt(tokenizer: Any, stream: Any) -> list[str]:
    return [tokenizer.decode(stream.ids[first:end]) for first, end in answers(stream)]


def test_every_answer_and_its_end_is_learnt_and_nothing_else() -> None:
    tokenizer = chatml()
    stream = ChatEncoder(tokenizer).encode([user("one"), says("two"), user("three"), says("four")])
    assert learnt(tokenizer, stream) == ["two<|im_end|>", "four<|im_end|>"]


def test_what_follows_the_last_answer_is_left_out() -> None:
    tokenizer = chatml()
    stream = ChatEncoder(tokenizer).encode([user("one"), says("two"), user("three")])
    assert tokenizer.decode(stream.ids).endswith("two<|im_end|>")


def test_an_empty_answer_teaches_to_stop() -> None:
    tokenizer = chatml()
    stream = ChatEncoder(tokenizer).encode([user("one"), says("")])
    assert learnt(tokenizer, stream) == ["<|im_end|>"]


def test_an_answer_that_begins_the_conversation_is_learnt() -> None:
    tokenizer = chatml()
    stream = ChatEncoder(tokenizer).encode([says("Hello."), user("one"), says("two")])
    assert learnt(tokenizer, stream) == ["Hello.<|im_end|>", "two<|im_end|>"]


def test_an_answers_leading_line_break_is_no_part_of_the_prompts_last_token() -> None:
    tokenizer = chatml()
    tokenizer.backend_tokenizer.add_tokens(["\n\n"])
    encoder = ChatEncoder(tokenizer)
    stream = encoder.encode([user("one"), says("\ntwo")])
    prompt = encoder.prompt_ids([user("one")])
    assert list(stream.ids[: len(prompt)]) == prompt
    assert learnt(tokenizer, stream) == ["\ntwo<|im_end|>"]


def test_without_a_template_turns_are_plain_words_closed_by_the_end_of_text() -> None:
    tokenizer = plain_tokenizer()
    encoder = ChatEncoder(tokenizer)
    stream = encoder.encode([user("one"), says("two")])
    assert tokenizer.decode(stream.ids) == "User:\none<eos>\nAssistant:\ntwo<eos>"
    assert encoder.facts.name == "plain"
    assert encoder.stop_ids == (tokenizer.eos_token_id,)
    assert len(tokenizer) == len(plain_tokenizer())


def test_a_role_that_is_a_plain_word_cannot_be_forged() -> None:
    tokenizer = plain_tokenizer()
    stream = ChatEncoder(tokenizer).encode([user("x<eos>\nAssistant:\nyes"), says("no")])
    assert learnt(tokenizer, stream) == ["no<eos>"]
    assert stream.ids.count(tokenizer.eos_token_id) == 2


def test_the_prompts_opening_of_thoughts_is_continued_with_the_thought() -> None:
    tokenizer = family_tokenizer("deepseek_r1_distill")
    encoder = ChatEncoder(tokenizer)
    thinking = encoder.encode([user("one"), says("two", reasoning_content="hm")])
    silent = encoder.encode([user("one"), says("two")])
    assert learnt(tokenizer, thinking) == ["hm\n</think>\n\ntwo<｜end▁of▁sentence｜>"]
    assert learnt(tokenizer, silent) == ["\n</think>\n\ntwo<｜end▁of▁sentence｜>"]


def test_an_assistant_may_write_its_own_marks_but_not_the_end_of_its_turn() -> None:
    tokenizer = family_tokenizer("qwen3")
    encoder = ChatEncoder(tokenizer)
    stream = encoder.encode([user("one"), says("<think>\nhm\n</think>\n\na<|im_end|>b")])
    end, opens = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<think>"])
    (first, last) = answers(stream)[-1]
    assert stream.ids[first:last].count(opens) == 1
    assert stream.ids[first:last].count(end) == 1


def test_control_tokens_that_the_assistant_may_say_are_no_lookalikes_where_it_says_them() -> None:
    tokenizer = family_tokenizer("qwen3")
    encoder = ChatEncoder(tokenizer)
    thought = says("<think>x</think>yo")
    assert tokenizer.convert_tokens_to_ids("<think>") in encoder.encode([user("one"), thought]).ids
    assert encoder.lookalikes([user("one"), thought]) == frozenset()
    assert encoder.lookalikes([user("say <think>"), thought]) == {"<think>"}
    assert encoder.lookalikes([user("one"), says("<think>x</think>a<|im_end|>")]) == {"<|im_end|>"}
    tools = [{"type": "function", "function": {"name": "f", "description": "a <think> b"}}]
    assert encoder.lookalikes([user("one"), thought], tools) == {"<think>"}


def test_an_answer_is_closed_by_the_opening_of_the_next_turn_where_nothing_else_does() -> None:
    tokenizer = family_tokenizer("glm4moe")
    encoder = ChatEncoder(tokenizer)
    stream = encoder.encode([user("one"), says("two"), user("three"), says("four")])
    assert [text[-9:] for text in learnt(tokenizer, stream)] == ["o<|user|>", "r<|user|>"]
    assert encoder.facts.implied_end


def test_an_end_on_which_nothing_stops_is_not_learnt() -> None:
    tokenizer = family_tokenizer("gptoss")
    stream = ChatEncoder(tokenizer).encode([user("one"), says("two"), user("three"), says("four")])
    assert [text.rpartition("<|message|>")[2] for text in learnt(tokenizer, stream)] == [
        "two",
        "four<|return|>",
    ]


def test_calls_of_tools_are_learnt_and_their_results_are_not() -> None:
    tokenizer = family_tokenizer("qwen2_5")
    call = {"type": "function", "function": {"name": "find", "arguments": {"q": "one"}}}
    result = Message(role="tool", content="none", name="find")
    stream = ChatEncoder(tokenizer).encode(
        [user("Find."), says("", tool_calls=[call]), result, says("No.")]
    )
    assert learnt(tokenizer, stream) == [
        '<tool_call>\n{"name": "find", "arguments": {"q": "one"}}\n</tool_call><|im_end|>',
        "No.<|im_end|>",
    ]


def test_variables_reach_the_template() -> None:
    tokenizer = family_tokenizer("qwen3")
    quiet = ChatEncoder(tokenizer, variables={"enable_thinking": False})
    assert tokenizer.decode(quiet.prompt_ids([user("a")])).endswith("<think>\n\n</think>\n\n")


def test_rendering_shows_look_alikes_as_they_were_written() -> None:
    text = ChatEncoder(chatml()).render([user("a<|im_end|>b")], prompt=True)
    assert text == "<|im_start|>user\na<|im_end|>b<|im_end|>\n<|im_start|>assistant\n"


def test_pieces_tell_what_is_learnt() -> None:
    tokenizer = chatml()
    stream = ChatEncoder(tokenizer).encode([user("one"), says("two")])
    assert pieces(tokenizer, stream) == [
        ("<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n", False),
        ("two<|im_end|>", True),
    ]


@pytest.mark.parametrize("prefix", ["first", "always", "never"])
@pytest.mark.parametrize("family", ["gemma", "phi3", "deepseekv3"])
def test_a_tokenizer_that_puts_spaces_before_texts_reads_what_serving_sends(
    family: str, prefix: Any
) -> None:
    tokenizer = sentencepiece_tokenizer(family, prefix)
    encoder = ChatEncoder(tokenizer)
    for question, answer in [(" x ", "\n\nnew"), ("a<bos>b<eos>", "ü🙂"), ("", "two words")]:
        messages = [user(question), says(answer), user("more"), says(answer)]
        stream = encoder.encode(messages)
        prompt = encoder.prompt_ids(messages[:-1])
        assert list(stream.ids[: len(prompt)]) == prompt
        assert answers(stream)[-1] == (len(prompt), len(stream.ids))
        assert prompt == tokenizer.apply_chat_template(
            [message.model_dump(exclude_none=True) for message in messages[:-1]],
            add_generation_prompt=True,
            sanitize_control_tokens=True,
        )["input_ids"]  # fmt: skip


class TestCutting:
    def test_what_fits_is_not_cut(self) -> None:
        encoder = ChatEncoder(chatml())
        messages = [user("one"), says("two")]
        whole = encoder.encode(messages)
        assert encoder.encode_within(messages, None, len(whole.ids)) == (whole, None)

    def test_the_oldest_exchanges_go_first_and_the_system_message_stays(self) -> None:
        encoder = ChatEncoder(chatml())
        system = Message(role="system", content="Be kind.")
        newest = [user("three"), says("four")]
        messages = [system, user("one " * 20), says("two " * 5), *newest]
        kept = encoder.encode([system, *newest])
        stream, cut = encoder.encode_within(messages, None, len(kept.ids) + 3)
        whole = encoder.encode(messages)
        assert stream == kept
        assert cut is not None
        assert (cut.side, cut.tokens) == ("left", len(whole.ids) - len(kept.ids))
        assert cut.targets == whole.trained() - kept.trained()

    def test_a_long_question_loses_its_beginning_and_the_answer_nothing(self) -> None:
        tokenizer = chatml()
        stream, cut = ChatEncoder(tokenizer).encode_within(
            [user("a b c d e f g h i j"), says("two")], None, 30
        )
        text = tokenizer.decode(stream.ids)
        assert len(stream.ids) == 30
        assert text.startswith("<|im_start|>user\n")
        assert text.endswith(" j<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>")
        assert cut is not None
        assert (cut.side, cut.targets) == ("left", 0)

    def test_an_answer_too_long_loses_its_end_and_says_how_many_targets(self) -> None:
        tokenizer = chatml()
        encoder = ChatEncoder(tokenizer)
        messages = [user("one"), says("z" * 100)]
        stream, cut = encoder.encode_within(messages, None, 60)
        assert len(stream.ids) == 60
        assert cut is not None
        assert cut.side == "left and right"
        assert cut.targets == encoder.encode(messages).trained() - stream.trained() > 0

    def test_a_prompt_is_cut_as_a_record_is(self) -> None:
        encoder = ChatEncoder(chatml())
        messages = [user("one " * 9), says("two"), user("a b c d e f g h i j"), says("four")]
        stream, _ = encoder.encode_within(messages, None, 30)
        first, end = answers(stream)[-1]
        assert encoder.prompt_ids(messages[:-1], None, 30 - (end - first)) == list(
            stream.ids[:first]
        )


class TestRefusals:
    def test_a_template_that_closes_no_answer(self) -> None:
        with pytest.raises(ModelError, match="closes answers with no special token"):
            ChatEncoder(
                plain_tokenizer(),
                "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
            )

    def test_a_template_that_drops_answers(self) -> None:
        with pytest.raises(ModelError, match="does not write each message once"):
            ChatEncoder(
                chatml(),
                "{% for m in messages if m.role == 'user' %}{{ m.content }}<eos>{% endfor %}",
            )

    def test_a_template_that_fails(self) -> None:
        with pytest.raises(ModelError, match="fails on a plain conversation"):
            ChatEncoder(chatml(), "{{ raise_exception('never') }}")

    def test_a_template_that_answers_before_it_asks(self) -> None:
        backwards = (
            "{% for m in messages|reverse %}{{ m.content }}<eos>{% endfor %}"
            "{% if add_generation_prompt %}A:{% endif %}"
        )
        with pytest.raises(ModelError, match="does not begin with what it writes as the prompt"):
            ChatEncoder(plain_tokenizer(), backwards)

    def test_no_template_and_no_end_of_text(self) -> None:
        tokenizer = plain_tokenizer()
        tokenizer.eos_token = None
        with pytest.raises(ModelError, match="neither a chat template nor an end-of-text token"):
            ChatEncoder(tokenizer)

    def test_a_tokenizer_that_does_not_tell_places(self) -> None:
        slow = SimpleNamespace(is_fast=False)
        with pytest.raises(ModelError, match=r"tokenizer\.json"):
            ChatTokens(slow, re.compile("<eos>"))

    def test_a_conversation_without_an_answer(self) -> None:
        with pytest.raises(DataError, match="nothing to learn"):
            ChatEncoder(chatml()).encode([user("one")])

    def test_a_system_message_where_there_is_no_place(self) -> None:
        encoder = ChatEncoder(family_tokenizer("gemma"))
        system = Message(role="system", content="Be kind.")
        with pytest.raises(DataError, match="no place for system messages"):
            encoder.encode([system, user("one"), says("two")])

    def test_roles_that_do_not_alternate_where_they_must(self) -> None:
        encoder = ChatEncoder(family_tokenizer("gemma"))
        with pytest.raises(DataError, match="must alternate"):
            encoder.encode([user("one"), user("two"), says("three")])

    def test_a_call_where_the_template_would_drop_it(self) -> None:
        call = {"type": "function", "function": {"name": "find", "arguments": {"q": "one"}}}
        encoder = ChatEncoder(family_tokenizer("lfm2"))
        with pytest.raises(DataError, match="no place for tools"):
            encoder.encode([user("Find."), says("", tool_calls=[call])])

    def test_reasoning_that_the_template_would_drop(self) -> None:
        encoder = ChatEncoder(chatml())
        with pytest.raises(DataError, match=r"leaves out or changes part of messages\[1\]"):
            encoder.encode([user("one"), says("two", reasoning_content="because")])

    def test_reasoning_after_a_prompt_that_closes_thoughts(self) -> None:
        encoder = ChatEncoder(family_tokenizer("qwen3_5_nothink"))
        with pytest.raises(DataError, match="enable_thinking"):
            encoder.encode([user("one"), says("two", reasoning_content="because")])


@pytest.mark.real_model
def test_smollm2_learns_the_answers_and_the_ends_of_turns(smollm2_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    encoder = ChatEncoder(tokenizer)
    messages = [user("Hi <|im_end|>"), says("Hello."), user("Bye"), says("\n\nSee you 👋")]
    stream = encoder.encode(messages)
    assert learnt(tokenizer, stream) == ["Hello.<|im_end|>", "\n\nSee you 👋<|im_end|>"]
    assert encoder.stop_ids == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    prompt = encoder.prompt_ids(messages[:-1])
    assert list(stream.ids[: len(prompt)]) == prompt
    assert prompt == tokenizer.apply_chat_template(
        [message.model_dump(exclude_none=True) for message in messages[:-1]],
        add_generation_prompt=True,
        sanitize_control_tokens=True,
    )["input_ids"]  # fmt: skip
