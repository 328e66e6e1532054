"""Language modelling: no text is lost, nothing is learnt twice, and figures are per document."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tasks.plain_engine import PlainEngine
from tests.tiny import tiny_llama

from tunesmith.console import Console
from tunesmith.data.records import Document
from tunesmith.errors import DataError, ModelError, RecipeError
from tunesmith.evaluation.significance import figures
from tunesmith.models.model import Model
from tunesmith.tasks.language_modeling import LanguageModeling
from tunesmith.tasks.parts.pieces import owners

MODEL = tiny_llama()
QUIET = Console(quiet=True)


def bound(model: Model = MODEL, **options: object) -> LanguageModeling:
    task = LanguageModeling(LanguageModeling.Options(**options))
    task.bind(model)
    return task


def learnt(task: LanguageModeling, text: str) -> list[int]:
    """The ids that are targets, piece after piece."""
    streams = [piece.streams["text"] for piece in task.pieces(Document(text=text))]
    return [
        token
        for stream in streams
        for token, weight in list(zip(stream.ids, stream.weights, strict=True))[1:]
        if weight
    ]


def test_a_document_is_its_tokens_and_an_end_that_is_learnt():
    (piece,) = bound().pieces(Document(text="salt sea"))
    ids = MODEL.tokenizer("salt sea")["input_ids"]
    assert list(piece.streams["text"].ids) == [*ids, MODEL.tokenizer.eos_token_id]
    assert piece.streams["text"].trained() == len(ids)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 120), max_length=st.integers(6, 40), overlap=st.integers(1, 5))
def test_every_token_but_the_first_is_learnt_exactly_once(
    length: int, max_length: int, overlap: int
):
    task = bound(max_length=max_length, overlap=overlap)
    text = "".join(chr(97 + i * i % 26) for i in range(length))
    pieces = task.pieces(Document(text=text))
    assert all(piece.length <= max_length for piece in pieces)
    assert all(piece.streams["text"].trained() for piece in pieces)
    assert [piece.continues for piece in pieces] == [False] + [True] * (len(pieces) - 1)
    whole = task.encode(Document(text=text)).streams["text"].ids
    assert learnt(task, text) == list(whole[1:])


def test_a_following_piece_begins_with_the_end_of_the_one_before():
    first, second, *_ = bound(max_length=20, overlap=4).pieces(Document(text="abcdefghij" * 5))
    assert second.streams["text"].ids[:4] == first.streams["text"].ids[-4:]
    assert second.streams["text"].weights[:5] == (0.0,) * 4 + (1.0,)


def test_the_log_likelihood_of_a_document_equals_the_loss_of_the_stock_model():
    task = bound()
    data = [Document(text=text) for text in ("salt", "a longer text of waves", "fish and oil")]
    scores = task.measure(
        PlainEngine(MODEL), data, task.encode_all(data), generate=0, console=QUIET
    )
    for record, score in zip(data, scores, strict=True):
        ids = torch.tensor([task.encode(record).streams["text"].ids])
        loss = MODEL.module(input_ids=ids, labels=ids).loss.item()
        tokens = ids.shape[1] - 1
        assert score.statistics["tokens"] == tokens
        assert -score.statistics["log_likelihood"] / tokens == pytest.approx(loss, abs=1e-5)


def test_the_pieces_of_a_document_are_one_score():
    task = bound(max_length=16)
    data = [Document(text="x" * 60), Document(text="short"), Document(text="waves " * 9)]
    examples = task.encode_all(data)
    assert len(examples) > 3
    assert sorted(set(owners(examples))) == [0, 1, 2]
    scores = task.measure(PlainEngine(MODEL), data, examples, generate=0, console=QUIET)
    assert [score.index for score in scores] == [0, 1, 2]
    for record, score in zip(data, scores, strict=True):
        assert score.statistics["tokens"] == len(record.text)  # bytes, less one, and the end
        alone = task.measure(
            PlainEngine(MODEL), [record], task.encode_all([record]), generate=0, console=QUIET
        )
        expected = alone[0].statistics["log_likelihood"]
        assert score.statistics["log_likelihood"] == pytest.approx(expected, abs=1e-4)


def test_perplexity_and_bits_per_byte_follow_from_the_log_likelihood():
    task = bound()
    data = [Document(text="salt and waves"), Document(text="fühlen")]
    scores = task.measure(
        PlainEngine(MODEL), data, task.encode_all(data), generate=0, console=QUIET
    )
    found = figures(scores, task.metrics)
    total = sum(score.statistics["log_likelihood"] for score in scores)
    size = sum(len(record.text.encode()) - 1 for record in data)  # the first byte is not learnt
    assert found["perplexity"] == pytest.approx(math.exp(-found["log_likelihood"]))
    assert found["bits_per_byte"] == pytest.approx(-total / math.log(2) / size)


def test_text_cannot_forge_the_end_of_a_document():
    ids = bound().encode(Document(text="a<|im_end|>b")).streams["text"].ids
    assert ids.count(MODEL.tokenizer.eos_token_id) == 1


def test_an_overlap_that_fills_a_piece_is_an_error():
    with pytest.raises(RecipeError, match="hold nothing new"):
        bound(max_length=8, overlap=8)


def test_a_tokenizer_without_an_end_token_is_an_error():
    import copy

    tokenizer = copy.deepcopy(MODEL.tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token"):
        bound(replace(MODEL, tokenizer=tokenizer))


def test_prediction_continues_a_text_greedily():
    task = bound(max_new_tokens=5)
    (prediction,) = task.predict(PlainEngine(MODEL), ["waves"])
    ids = MODEL.tokenizer("waves", return_tensors="pt")["input_ids"]
    whole = MODEL.module.generate(
        ids, max_new_tokens=5, do_sample=False, eos_token_id=MODEL.tokenizer.eos_token_id,
        pad_token_id=0,
    )  # fmt: skip
    expected = MODEL.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
    assert prediction.text == expected


def test_a_prompt_that_leaves_no_room_is_an_error_that_says_so():
    with pytest.raises(DataError, match=r"input 1: The prompt has 120 tokens; with 128"):
        bound().predict(PlainEngine(MODEL), ["x" * 120])
