"""Recognising formats and turning rows into records, with errors that name record and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tunesmith.data.dataset import Dataset, load_dataset
from tunesmith.data.formats import FORMATS, describe
from tunesmith.data.records import Conversation, Document, LabelledText
from tunesmith.errors import DataError

Rows = list[dict[str, Any]]
TURNS = [("user", "Hi"), ("assistant", "Hello.")]


def load(folder: Path, rows: Rows, record: type[BaseModel], **options: Any) -> Dataset:
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return load_dataset([str(path)], record, **options)


def turns(dataset: Dataset) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in dataset.records[0].messages]


def fails(folder: Path, rows: Rows, record: type[BaseModel], match: str, **options: Any) -> str:
    with pytest.raises(DataError, match=match) as caught:
        load(folder, rows, record, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_every_formats_own_example_is_recognised_and_read(tmp_path: Path, name: str) -> None:
    format = FORMATS[name]
    asked = {"format": name} if format.by_name else {}
    dataset = load(tmp_path, [json.loads(format.example)], format.record, **asked)
    assert dataset.format == name
    assert isinstance(dataset.records[0], format.record)


def test_alpaca_joins_instruction_and_input(tmp_path: Path) -> None:
    row = {
        "system": "Be.",
        "history": [["a", "b"]],
        "instruction": "c",
        "input": "d",
        "output": "e",
    }
    assert turns(load(tmp_path, [row], Conversation)) == [
        ("system", "Be."), ("user", "a"), ("assistant", "b"),
        ("user", "c\n\nd"), ("assistant", "e"),
    ]  # fmt: skip


def test_sharegpt_speakers_become_roles(tmp_path: Path) -> None:
    said = [("human", "Hi"), ("function_call", '{"name": "f", "arguments": {"x": 1}}'),
            ("observation", "7"), ("gpt", "Seven.")]  # fmt: skip
    row = {
        "conversations": [{"from": who, "value": what} for who, what in said],
        "tools": '[{"name": "f", "parameters": {}}]',
    }
    record = load(tmp_path, [row], Conversation).records[0]
    assert [message.role for message in record.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert record.messages[1].tool_calls == [
        {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    ]
    assert record.tools == [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def test_openai_messages_keep_calls_reasoning_and_parts(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages = [
        {"role": "developer", "content": "Be."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "content": "7", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Seven.", "thinking": "it says 7"},
    ]
    said = load(tmp_path, [{"messages": messages}], Conversation).records[0].messages
    assert [(m.role, m.content) for m in said[:2]] == [("system", "Be."), ("user", "ab")]
    assert said[2].tool_calls[0]["function"]["arguments"] == {"x": 1}
    assert said[3].tool_call_id == "c1"
    assert said[4].reasoning_content == "it says 7"


def test_prompt_and_completion_may_be_messages(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "completion": [{"role": "assistant", "content": "Hello."}],
    }
    assert turns(load(tmp_path, [row], Conversation)) == TURNS


@pytest.mark.parametrize(
    ("label", "name"), [(3, "3"), (2.0, "2"), (True, "true"), (" good ", "good")]
)
def test_labels_become_names(tmp_path: Path, label: Any, name: str) -> None:
    assert load(tmp_path, [{"text": "a", "label": label}], LabelledText).records[0].label == name


def test_a_labelled_file_serves_as_plain_text_where_texts_are_learnt(tmp_path: Path) -> None:
    dataset = load(tmp_path, [{"text": "a", "label": "b"}], Document)
    assert dataset.format == "text"
    assert dataset.ignored == ("label",)


def test_columns_are_renamed_as_format_name_to_name_in_the_file(tmp_path: Path) -> None:
    rows = [{"review": "fine", "stars": 4, "text": "id 7"}]
    columns = {"text": "review", "label": "stars"}
    record = load(tmp_path, rows, LabelledText, columns=columns).records[0]
    assert (record.text, record.label) == ("fine", "4")


def test_a_column_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    said = fails(
        tmp_path, [{"review": "a"}], Document, "no field 'reviw'", columns={"text": "reviw"}
    )
    assert "Did you mean 'review'?" in said


def test_sources_are_joined_in_order(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    dataset = load_dataset(["a.txt", "b.txt"], Document, base=tmp_path)
    assert [record.text for record in dataset.records] == dataset.origins == ["a.txt", "b.txt"]


def test_groups_are_read_before_columns_are_renamed(tmp_path: Path) -> None:
    rows = [{"body": "a", "film": 1}, {"body": "b", "film": 2}]
    dataset = load(tmp_path, rows, Document, group="film", columns={"text": "body"})
    assert dataset.groups == ["1", "2"]
    assert dataset.take([1]).groups == ["2"]
    assert dataset.ignored == ()


def test_a_record_without_its_group_is_named(tmp_path: Path) -> None:
    rows = [{"text": "a", "film": 1}, {"text": "b"}]
    fails(tmp_path, rows, Document, r"1 of 2 records have no 'film'.*a\.jsonl:2", group="film")


class TestErrors:
    def test_a_wrong_record_is_named_by_number_field_found_and_expected(
        self, tmp_path: Path
    ) -> None:
        good = {"instruction": "a", "output": "b"}
        said = fails(tmp_path, [good, {**good, "output": 3}], Conversation, "Not every record is")
        assert "record 2 (a.jsonl:2): output: found 3 (a number), expected a text" in said
        assert FORMATS["alpaca"].example in said

    def test_an_odd_record_is_named_with_the_format_it_looks_like(self, tmp_path: Path) -> None:
        good = {"instruction": "a", "output": "b"}
        rows: Rows = [good, good, {"prompt": "a", "completion": "b"}]
        said = fails(tmp_path, rows, Conversation, r"record 3 .* instruction: is missing")
        assert "looks like prompt_completion" in said

    def test_of_many_wrong_records_the_first_are_shown_and_all_counted(
        self, tmp_path: Path
    ) -> None:
        rows: Rows = [{"text": "a"}] * 3 + [{"text": None}] * 8
        said = fails(tmp_path, rows, Document, r"and 5 more \(8 of 11 records\)")
        assert "record 6" in said
        assert "record 7" not in said

    def test_a_labelled_file_for_a_task_of_conversations(self, tmp_path: Path) -> None:
        rows = [{"text": "a", "label": "b"}]
        said = fails(tmp_path, rows, Conversation, "records are text or text_label")
        assert "learns from alpaca (instruction, output)" in said

    def test_unknown_fields_name_the_nearest_format(self, tmp_path: Path) -> None:
        said = fails(tmp_path, [{"prompt": "a", "response": "b"}], Conversation, "no known format")
        assert "The nearest is prompt_completion" in said
        assert "data.columns: {completion: <its name here>}" in said

    def test_two_formats_that_fit_must_be_told_apart(self, tmp_path: Path) -> None:
        row = {"messages": [dict(zip(("role", "content"), t, strict=True)) for t in TURNS],
               "prompt": "a", "completion": "b"}  # fmt: skip
        fails(tmp_path, [row], Conversation, "can be read as chat and prompt_completion")
        assert turns(load(tmp_path, [row], Conversation, format="chat")) == TURNS

    def test_a_format_that_does_not_serve_the_task(self, tmp_path: Path) -> None:
        fails(tmp_path, [{"text": "a"}], Conversation, "does not serve", format="text")

    @pytest.mark.parametrize(
        ("messages", "message"),
        [
            ([{"role": "user", "content": "a"}], "there is nothing to learn"),
            ([{"role": "assistant", "content": " "}], "there is nothing to learn"),
            ([], "at least one message"),
            ("a", r"found the text 'a', expected a list of messages"),
            ([["a"]], r"messages\[0\]: found a list, expected an object"),
            ([{"content": "a"}], r"messages\[0\]\.role: is missing"),
            (
                [{"role": "bot", "content": "a"}],
                r"role: found the text 'bot', expected one of system",
            ),
            ([{"role": "user", "content": 3}], r"messages\[0\]\.content: found 3"),
            ([{"role": "user", "content": None}], r"messages\[0\]\.content: found null"),
            ([{"role": "user", "content": "a", "mood": "b"}], r"\[0\]\.mood: .* no such field"),
            ([{"role": "user", "content": [{"type": "image_url"}]}], "only text is learnt"),
            ([{"from": "human", "value": "a"}], "stand under"),
            (
                [
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "f", "arguments": "{"}}],
                    }
                ],
                r"tool_calls\[0\]\.function\.arguments: .* expected JSON",
            ),
        ],
    )
    def test_a_wrong_message_is_named_by_its_place(
        self, tmp_path: Path, messages: Any, message: str
    ) -> None:
        fails(tmp_path, [{"messages": messages}], Conversation, message)

    def test_an_unknown_speaker(self, tmp_path: Path) -> None:
        row = {"conversations": [{"from": "dog", "value": "woof"}]}
        fails(tmp_path, [row], Conversation, r"conversations\[0\]\.from: found the text 'dog'")

    @pytest.mark.parametrize("label", [None, "", 1.5, ["a"]])
    def test_a_label_that_is_no_class(self, tmp_path: Path, label: Any) -> None:
        fails(tmp_path, [{"text": "a", "label": label}], LabelledText, "label: found .* a class")

    def test_a_blank_text(self, tmp_path: Path) -> None:
        fails(tmp_path, [{"text": " \n"}], Document, "text: found an empty text")


def test_what_serves_a_task_is_described_with_an_example_each() -> None:
    assert [line.split(":")[0] for line in describe(Conversation).splitlines()] == [
        "alpaca", "chat", "sharegpt", "prompt_completion",
    ]  # fmt: skip
