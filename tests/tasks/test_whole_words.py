"""Whole words hidden: which tokens go together, as transformers has it, and how often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tiny import tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from tunesmith.data.batch import NO_CLASS, NO_WORD
from tunesmith.data.masking import Masking
from tunesmith.data.records import Document
from tunesmith.data.stored import StoredExamples, open_tables, table_of, write_tables
from tunesmith.errors import ModelError
from tunesmith.models.model import Model
from tunesmith.tasks.masked_language_modeling import MaskedLanguageModeling

FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2")
TEXTS = [
    Document(text=text)
    for text in ("a painted wall is dry", "waves and salt all day long", "x", "the court said so")
]
LONG = Document(text="every one of these plain words stands for itself alone")


def bound(model: Model, **options: Any) -> MaskedLanguageModeling:
    given = {"masking": "whole_word", **options}
    task = MaskedLanguageModeling(MaskedLanguageModeling.Options(**given))
    task.bind(model)
    return task


def gaps(stream: Any) -> np.ndarray[Any, Any]:
    return np.array([stood != NO_CLASS for stood in stream.classes])


@pytest.mark.parametrize("family", FAMILIES)
def test_gaps_are_those_that_transformers_makes_of_the_words_that_were_drawn(family: str) -> None:
    model = tiny_model(family, "masked_lm")
    model.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [  # so that no space is a part of a word, which is how transformers tells words apart
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    collator = DataCollatorForLanguageModeling(
        model.tokenizer, whole_word_mask=True, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    task = bound(model, share=0.4, masked=1.0, random=0.0)
    for document in TEXTS:
        encoded = model.tokenizer(document.text, return_offsets_mapping=True)
        special = np.array([[int(token in model.tokenizer.all_special_ids)
                             for token in encoded["input_ids"]]])  # fmt: skip
        offsets = np.array([encoded["offset_mapping"]])
        words, not_first = collator._calc_word_ids_and_prob_mask(offsets, special)
        for epoch in range(5):
            example = task.seen(task.encode(document), 3, epoch)
            stream = example.streams["text"]
            drawn = gaps(stream)[None] & ~not_first
            assert drawn.any()
            assert gaps(stream).tolist() == collator._whole_word_mask(words, drawn)[0].tolist()
            stood = [c if c != NO_CLASS else i
                     for c, i in zip(stream.classes, stream.ids, strict=True)]  # fmt: skip
            assert stood == encoded["input_ids"]
            assert {stream.ids[i] for i in np.flatnonzero(gaps(stream))} == {
                model.tokenizer.mask_token_id
            }


def test_a_share_of_the_words_is_hidden_each_equally_often() -> None:
    masking = Masking(0.25, 0.8, 0.1, mask_id=1, others=tuple(range(10, 90)), before=1, behind=1)
    words = (NO_WORD, 0, 1, 1, 1, 2, 2, 3, 4, 5, 6, 6, 7, NO_WORD)
    ids = list(range(50, 50 + len(words)))
    counts = np.zeros(8)
    changed = total = 0
    for key in range(2000):
        stream = masking.hide(ids, (key,), words)
        hidden = {words[i] for i in np.flatnonzero(gaps(stream))}
        assert len(hidden) == 2
        assert NO_WORD not in hidden
        assert all(words[i] not in hidden for i in np.flatnonzero(~gaps(stream)))
        counts[list(hidden)] += 1
        total += int(gaps(stream).sum())
        changed += sum(token == 1 for token in stream.ids)
    assert counts.min() > 0.85 * counts.mean()
    assert counts.max() < 1.15 * counts.mean()
    assert changed / total == pytest.approx(0.8, abs=0.02)


def test_pieces_of_a_long_text_keep_their_words_also_on_disk(tmp_path: Path) -> None:
    task = bound(tiny_model("bert", "masked_lm"), max_length=16)
    pieces = task.pieces(LONG)
    assert len(pieces) > 2
    for piece in pieces:
        stream = piece.streams["text"]
        assert len(stream.words) == len(stream.ids)
        assert stream.words[0] == stream.words[-1] == NO_WORD
    write_tables(tmp_path / "kept", [table_of(pieces)])
    kept = StoredExamples(open_tables(tmp_path / "kept"))
    assert list(kept) == pieces
    assert [task.seen(e, 1, 2) for e in kept] == [task.seen(e, 1, 2) for e in pieces]


def test_measured_are_whole_words_behind_the_mask() -> None:
    model = tiny_model("bert", "masked_lm")
    stream = bound(model, share=0.3).encode(LONG).streams["text"]
    words = [word for word, gap in zip(stream.words, gaps(stream), strict=True) if gap]
    assert len(set(words)) == 3
    assert len(words) == sum(word in words for word in stream.words)
    assert all(stream.ids[i] == model.tokenizer.mask_token_id for i in np.flatnonzero(gaps(stream)))


def test_a_tokenizer_that_knows_no_words_is_refused() -> None:
    model = tiny_model("bert", "masked_lm")
    spelt = tiny_tokenizer(encoder=True).get_vocab()
    core = Tokenizer(models.BPE(spelt, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", mask_token="<|im_start|>", pad_token="<pad>"
    )
    with pytest.raises(ModelError, match="does not tell words apart"):
        bound(model)
