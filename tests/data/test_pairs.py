"""Sources and targets, however they are written: formats, languages within a field, encoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_model, tiny_pair_tokenizer
from tokenizers import AddedToken

from tunesmith.data.dataset import load_dataset
from tunesmith.data.pair_encoder import Limits, PairEncoder
from tunesmith.data.records import TextPair, content_key, text_of
from tunesmith.errors import DataError, RecipeError
from tunesmith.quality.leaks import find_leaks
from tunesmith.tasks.seq2seq import Seq2Seq

ONE = TextPair(source="Hello", target="Hallo")
ROWS = {
    "source_target": {"source": "Hello", "target": "Hallo"},
    "translation": {"translation": {"en": "Hello", "de": "Hallo"}},
    "document_summary": {"document": "Hello", "summary": "Hallo"},
    "article_highlights": {"article": "Hello", "highlights": "Hallo", "id": "1"},
    "dialogue_summary": {"dialogue": "Hello", "summary": "Hallo"},
    "text_summary": {"text": "Hello", "summary": "Hallo"},
    "prompt_completion": {"prompt": "Hello", "completion": "Hallo"},
    "alpaca": {"instruction": "Hello", "input": "", "output": "Hallo"},
}


def load(folder: Path, *rows: dict[str, Any], **options: Any):
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return load_dataset([str(path)], TextPair, **options)


@pytest.mark.parametrize("name", ROWS)
def test_every_way_to_write_a_pair_is_recognised(tmp_path, name):
    found = load(tmp_path, ROWS[name])
    assert found.format == name
    assert found.records == [ONE]


@pytest.mark.parametrize("name", ROWS)
def test_a_format_can_be_named(tmp_path, name):
    assert load(tmp_path, ROWS[name], format=name).records == [ONE]


def test_an_instruction_and_its_input_are_one_source(tmp_path):
    row = {"instruction": "Translate.", "input": "Hello", "output": "Hallo"}
    assert load(tmp_path, row).records[0].source == "Translate.\n\nHello"


def test_which_language_is_the_source_can_be_said(tmp_path):
    rows = [{"translation": {"en": "Hello", "de": "Hallo", "fr": "Bonjour"}, "id": 1}]
    columns = {"source": "translation.fr", "target": "translation.en"}
    found = load(tmp_path, *rows, columns=columns)
    assert found.records == [TextPair(source="Bonjour", target="Hello")]
    assert found.format == "source_target"


def test_three_languages_ask_which(tmp_path):
    rows = [{"translation": {"en": "Hello", "de": "Hallo", "fr": "Bonjour"}}]
    with pytest.raises(DataError, match=r"two languages, not 3; say which: data.columns"):
        load(tmp_path, *rows)


def test_a_language_that_is_not_there_is_answered_with_one_that_is(tmp_path):
    with pytest.raises(DataError, match=r"no field 'translation.fr' to read as 'source'"):
        load(tmp_path, ROWS["translation"], columns={"source": "translation.fr"})


@pytest.mark.parametrize("row", [
    {"source": "Hello", "target": " "}, {"source": "", "target": "Hallo"},
    {"translation": "Hello"}, {"prompt": [{"role": "user", "content": "Hi"}], "completion": "x"},
    {"instruction": "a", "output": "b", "history": [["c", "d"]]},
])  # fmt: skip
def test_a_row_that_is_no_pair_is_refused_with_its_field(tmp_path, row):
    with pytest.raises(DataError, match="record 1"):
        load(tmp_path, row)


def test_a_pair_is_equal_to_another_by_both_texts():
    assert content_key(ONE) == content_key(TextPair(source="hello ", target="HALLO"))
    assert content_key(ONE) != content_key(TextPair(source="Hello", target="Guten Tag"))
    assert text_of(ONE) == "Hello\n\nHallo"


def test_a_source_with_another_target_in_the_test_is_a_leak():
    leaks = find_leaks([ONE], [TextPair(source="hello", target="Guten Tag, liebe Leute")])
    assert [(pair.first, pair.second) for pair in leaks.same_prompt] == [(0, 0)]


class Speaking:
    """A tokenizer that is told languages, as those of mBART-50 are: a token before every text."""

    def __init__(self) -> None:
        self._tokenizer = tiny_pair_tokenizer("t5").__class__(
            tokenizer_object=tiny_pair_tokenizer("t5").backend_tokenizer,
            pad_token="<pad>", unk_token="<unk>", eos_token="<sep>",
        )  # fmt: skip
        self._tokenizer.add_tokens([AddedToken(f"<{code}>", special=True) for code in ("en", "de")])
        self.eos_token_id, self.unk_token_id = 5, 3
        self._languages = {"src_lang": "en", "tgt_lang": "en"}

    def __getattr__(self, name: str) -> Any:
        if name in ("src_lang", "tgt_lang"):
            return self._languages[name]
        return getattr(self._tokenizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("src_lang", "tgt_lang"):
            if value not in ("en", "de"):
                raise KeyError(value)
            self._languages[name] = value
        else:
            super().__setattr__(name, value)

    def __call__(self, text: str | None = None, text_target: str | None = None, **given: Any):
        side = "src_lang" if text is not None else "tgt_lang"
        masked = given.pop("return_special_tokens_mask", False)
        found = self._tokenizer(text if text is not None else text_target, **given)
        if given.get("add_special_tokens", True):
            code = self._tokenizer.convert_tokens_to_ids(f"<{self._languages[side]}>")
            ids = [code, *found["input_ids"]]
            found = {"input_ids": ids}
            if masked:
                found["special_tokens_mask"] = [1, *[0] * (len(ids) - 2), 1]
        return found


def test_a_target_begins_with_its_language_where_the_tokenizer_puts_it():
    encoder = PairEncoder(Speaking(), lambda written: 5, Limits(50, 50, 50), ("en", "de"))
    streams, _ = encoder.encode("Hi", "Ho")
    english, german = (Speaking()._tokenizer.convert_tokens_to_ids(f"<{c}>") for c in ("en", "de"))
    assert streams["source"].ids[0] == english
    assert streams["target"].ids[:2] == (5, german)
    assert streams["target"].weights[:3] == (0.0, 1.0, 1.0)
    assert encoder.first == german


def test_a_language_that_the_tokenizer_does_not_know_is_refused():
    with pytest.raises(RecipeError, match="knows no language 'xx'"):
        PairEncoder(Speaking(), lambda written: 5, Limits(50, 50, 50), ("en", "xx"))


def test_the_language_is_forced_when_targets_are_generated():
    model = tiny_model("bart", "seq2seq_lm")
    model.tokenizer = Speaking()
    task = Seq2Seq(Seq2Seq.Options(source_language="en", target_language="de"))
    task.bind(model)
    german = model.tokenizer.convert_tokens_to_ids("<de>")
    assert model.module.generation_config.forced_bos_token_id == german
