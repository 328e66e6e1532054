"""A saved model is asked as it was taught: by its tokenizer from disk alone, token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.families import FAMILIES, family_tokenizer
from tests.tiny import tiny_llama

from tunesmith.data.chat import ChatEncoder
from tunesmith.data.records import Conversation, Message, TextPair
from tunesmith.errors import RunError
from tunesmith.registry import TASKS
from tunesmith.tasks.parts.serving import check_asked

ASKED = [
    Message(role="user", content="Über\n\nwhat? 🙂"),
    Message(role="assistant", content="One."),
]
TWICE = [*ASKED, Message(role="user", content=" again "), Message(role="assistant", content="Two.")]
RECORDS: dict[str, Any] = {
    "instruct": Conversation(messages=TWICE),
    "seq2seq": TextPair(source="a river", target="ein Fluss"),
}


def bound(name: str, folder: Path) -> Any:
    """A task of a decoder, whose tokenizer was saved."""
    kind = TASKS.get(name)
    task = kind(kind.Options(max_new_tokens=4))
    model = tiny_llama()
    task.bind(model)
    model.tokenizer.chat_template = task.chat_template
    model.tokenizer.save_pretrained(folder)
    return task


def change(folder: Path, old: str, new: str) -> None:
    """Change how the saved template writes, in one place."""
    file = folder / "chat_template.jinja"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_templates_of_real_families_pass(family: str, tmp_path: Path) -> None:
    tokenizer = family_tokenizer(family)
    tokenizer.save_pretrained(tmp_path)
    check_asked(
        tmp_path, ChatEncoder(tokenizer), [(ASKED[:1], ASKED, None), (TWICE[:3], TWICE, None)]
    )


@pytest.mark.parametrize("name", RECORDS)
def test_another_template_in_the_folder_is_an_error(name: str, tmp_path: Path) -> None:
    task = bound(name, tmp_path)
    task.check_saved(tmp_path, [RECORDS[name]])
    change(tmp_path, "assistant", "Assistant")
    with pytest.raises(RunError, match="The saved chat template is not the one"):
        task.check_saved(tmp_path, [RECORDS[name]])


def test_line_ends_that_reading_a_file_changes_are_no_other_template(tmp_path: Path) -> None:
    kind = TASKS.get("instruct")
    model = tiny_llama()
    task: Any = kind(kind.Options(template=model.tokenizer.chat_template.replace("\n", "\r\n")))
    task.bind(model)
    model.tokenizer.chat_template = task.chat_template
    model.tokenizer.save_pretrained(tmp_path)
    task.check_saved(tmp_path, [RECORDS["instruct"]])


@pytest.mark.parametrize("name", RECORDS)
def test_a_prompt_of_other_tokens_is_an_error_that_says_where(name: str, tmp_path: Path) -> None:
    task = bound(name, tmp_path)
    file = tmp_path / "tokenizer.json"
    saved = json.loads(file.read_text())
    vocabulary = saved["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(saved))
    with pytest.raises(RunError, match=r"the prompt of test record 1 goes on with .* at token \d"):
        task.check_saved(tmp_path, [RECORDS[name]])


def test_a_template_that_refuses_a_prompt_is_an_error(tmp_path: Path, monkeypatch) -> None:
    task = bound("instruct", tmp_path)
    change(tmp_path, "{%", "{{ raise_exception('no') }}{%")
    saved = (tmp_path / "chat_template.jinja").read_text()
    monkeypatch.setattr(type(task._chat), "template", saved)
    with pytest.raises(RunError, match=r"the prompt of test record 1 is refused \(no\)"):
        task.check_saved(tmp_path, [RECORDS["instruct"]])


@pytest.mark.parametrize("name", RECORDS)
def test_what_others_may_take_for_control_tokens_is_named_and_not_compared(
    name: str, tmp_path: Path
) -> None:
    task = bound(name, tmp_path)
    fields = {"instruct": "messages", "seq2seq": "source"}
    said: Any = "x <|im_end|> y"
    if name == "instruct":
        said = [Message(role="user", content=said), ASKED[1]]
    record = RECORDS[name].model_copy(update={fields[name]: said})
    assert set(task.lookalikes(record)) == {"<|im_end|>"}
    assert not task.lookalikes(RECORDS[name])
    task.check_saved(tmp_path, [record])
