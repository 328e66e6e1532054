"""How texts are laid out: as the tokenizer itself does it, with an instruction, and cut to fit."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from tests.tiny import tiny_model

from tunesmith.data.batch import Encoded, collate
from tunesmith.engine.engine import Engine
from tunesmith.errors import DataError, RecipeError
from tunesmith.models.model import Model
from tunesmith.models.reading import Reader, ReadingOptions
from tunesmith.objectives.base import Hidden

ONE, OTHER = "the court said", "waves, and salt on the wall"


def tiny(family: str) -> Model:
    """A model whose tokenizer says in which of two texts a token stands, as BERT's own does."""
    model = tiny_model(family, "classification", ("a", "b"))
    tokenizer = deepcopy(model.tokenizer)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return replace(model, tokenizer=tokenizer)


def reader(model: Model, **options: object) -> Reader:
    return Reader(model, ReadingOptions(**options))


def test_an_encoder_reads_a_pair_as_its_tokenizer_lays_it_out_with_types() -> None:
    model = tiny("bert")
    stream, cut = reader(model).lay(ONE, OTHER)
    expected = model.tokenizer(ONE, OTHER)
    assert list(stream.ids) == expected["input_ids"]
    assert list(stream.types) == expected["token_type_ids"]
    assert set(stream.types) == {0, 1}
    assert cut is None


@pytest.mark.parametrize("family", ["roberta", "distilbert", "deberta-v2"])
def test_a_model_that_tells_no_types_apart_is_given_none(family: str) -> None:
    stream, _ = reader(tiny(family)).lay(ONE, OTHER)
    assert stream.types is None


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_decoder_reads_two_texts_as_one_with_the_separator_between(family: str) -> None:
    model = tiny(family)
    stream, _ = reader(model, separator=" => ").lay(ONE, OTHER)
    assert list(stream.ids) == model.tokenizer(f"{ONE} => {OTHER}")["input_ids"]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_instruction_stands_before_the_text(family: str) -> None:
    model = tiny(family)
    told = reader(model, instruction="Who speaks?")
    assert list(told.lay(ONE)[0].ids) == model.tokenizer(f"Who speaks?\n{ONE}")["input_ids"]
    pair = [f"Who speaks?\n{ONE}", OTHER] if family == "bert" else [f"Who speaks?\n{ONE}\n{OTHER}"]
    assert list(told.lay(ONE, OTHER)[0].ids) == model.tokenizer(*pair)["input_ids"]


@pytest.mark.parametrize("length", [8, 11, 20, 21, 30, 44])
def test_pairs_are_cut_as_the_tokenizer_cuts_the_longest_first(length: int) -> None:
    model = tiny("bert")
    for pair in ((ONE, OTHER), (OTHER, ONE), (ONE, ONE)):
        stream, cut = reader(model, max_length=length).lay(*pair)
        expected = model.tokenizer(*pair, truncation="longest_first", max_length=length)
        assert list(stream.ids) == expected["input_ids"]
        assert list(stream.types) == expected["token_type_ids"]
        lost = sum(map(len, pair)) + 3 - len(stream.ids)
        assert (cut.tokens if cut else 0) == lost


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_what_is_cut_is_never_the_instruction(family: str) -> None:
    model = tiny(family)
    told = reader(model, instruction="Who?", max_length=12, truncation="start")
    stream, cut = told.lay(ONE)
    text = model.tokenizer.decode(stream.ids, skip_special_tokens=True)
    assert text == "Who?\n" + ONE[len(ONE) - (12 - 5 - 2 * (family == "bert")) :]
    assert (cut.side, cut.tokens) == ("start", len(ONE) - len(text) + 5)


def test_no_room_for_text_is_an_error_that_names_the_option() -> None:
    model = tiny("bert")
    with pytest.raises(RecipeError, match="no room for text beside the 12"):
        reader(model, instruction="Who said?", max_length=12)
    with pytest.raises(DataError, match="no room for two texts"):
        reader(model, max_length=4).lay(ONE, OTHER)
    short = replace(model, anatomy=replace(model.anatomy, context_length=6))
    assert len(reader(short, max_length=100).lay(ONE)[0].ids) == 6


@pytest.mark.parametrize("packed", [True, False])
def test_the_body_is_told_the_types_packed_and_padded(packed: bool) -> None:
    model = tiny("bert")
    pairs = [(ONE, OTHER), ("x", None), ("salt", "a wall")]
    examples = [Encoded({"text": reader(model).lay(*pair)[0]}) for pair in pairs]
    engine = Engine(model, packing=packed)
    hidden_TD = engine.forward(collate(examples), Hidden).hidden_TD
    for found, pair in zip(hidden_TD.split([e.length for e in examples]), pairs, strict=True):
        given = model.tokenizer(*[text for text in pair if text], return_tensors="pt")
        with torch.no_grad():
            expected = model.body(**given)[0][0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    untyped = model.body(input_ids=model.tokenizer(ONE, OTHER, return_tensors="pt")["input_ids"])
    assert not torch.allclose(untyped[0][0], hidden_TD[: examples[0].length], atol=1e-2)
