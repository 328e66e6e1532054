"""Beginnings that documents have in common are computed once, and nothing else changes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.test_equality import (
    DECODERS,
    ENCODERS,
    assert_same,
    engine_for,
    learn,
    reference_tokens,
)
from tests.tiny import tiny_model

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.sharing import shared_beginnings
from tunesmith.objectives.token_likelihood import TokenLikelihood


def example(ids: list[int]) -> Encoded:
    weights = tuple(float(i > 1 and i % 3 != 1) for i in range(len(ids)))
    return Encoded({"text": EncodedStream(tuple(ids), weights)})


def alike() -> list[Encoded]:
    """A tree of beginnings: all have two tokens in common, some more, one is a part of another."""
    draw = torch.Generator().manual_seed(3)

    def made_up(count: int) -> list[int]:
        return torch.randint(10, 90, (count,), generator=draw).tolist()

    system, question = made_up(6), made_up(4)
    return [
        example(ids)
        for ids in (
            system + made_up(3),
            system + question + made_up(5),
            system[:2] + made_up(7),
            system + question,
            system + question + made_up(2),
            system + question,
        )
    ]


def spy(engine) -> list[int]:
    """Note how many rows go through the body."""
    rows: list[int] = []
    engine.model.body.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return rows


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=8),
)
@settings(max_examples=200, deadline=None)
def test_every_token_finds_a_row_with_the_same_token_after_the_same_beginning(
    documents: list[list[int]],
) -> None:
    stream = collate([Encoded({"text": EncodedStream(tuple(ids))}) for ids in documents]).text
    sharing = shared_beginnings(stream)
    beginnings = {tuple(ids[: n + 1]) for ids in documents for n in range(len(ids))}
    if sharing is None:
        assert len(beginnings) > 0.98 * len(stream.ids_T) or len(documents) == 1
        return
    assert len(sharing.ids_M) == len(beginnings)
    assert torch.equal(sharing.ids_M[sharing.place_T], stream.ids_T)
    assert torch.equal(sharing.positions_M[sharing.place_T], stream.positions_T)
    rows = [tuple(part.tolist()) for part in torch.split(sharing.place_T, stream.lengths)]
    for ids, places in zip(documents, rows, strict=True):
        for others, theirs in zip(documents, rows, strict=True):
            for n in range(min(len(ids), len(others))):
                same = ids[: n + 1] == others[: n + 1]
                assert (places[n] == theirs[n]) == same


@pytest.mark.parametrize("family", DECODERS)
def test_loss_and_gradients_equal_those_of_the_documents_one_by_one(family):
    model = tiny_model(family)
    expected = reference_tokens(model, alike())
    engine = engine_for(model)
    rows = spy(engine)
    assert_same(learn(engine, TokenLikelihood(), [alike()]), expected)
    tokens = sum(e.length for e in alike())
    assert engine.layout.can_share is engine.packed
    assert (sum(rows) < 0.7 * tokens) is engine.packed


@pytest.mark.parametrize("family", ENCODERS)
def test_a_model_that_looks_ahead_shares_nothing(family):
    model = tiny_model(family, head="classification", labels=("a", "b"))
    assert not engine_for(model).layout.can_share


def test_documents_do_not_share_what_is_dropped_at_random():
    engine = engine_for(tiny_model("gpt2", dropout=0.1))
    rows = spy(engine)
    learn(engine, TokenLikelihood(), [alike()])
    assert sum(rows) == sum(e.length for e in alike())
    rows.clear()
    engine.forward(collate(alike()), TokenLikelihood().readout)
    assert sum(rows) < 0.7 * sum(e.length for e in alike())


def test_documents_with_nothing_in_common_are_left_as_they_are():
    apart = [example([first, *range(20, 30)]) for first in range(4)]
    assert shared_beginnings(collate(apart).text) is None


@pytest.mark.parametrize("fuse", [True, False])
def test_documents_that_are_all_the_same_count_each(fuse):
    model = tiny_model("llama")
    same = [example(list(range(20, 30)))] * 4
    expected = reference_tokens(model, same)
    engine = engine_for(model, fuse=fuse)
    for _ in range(3):  # what lies in memory that was used before must not matter
        assert_same(learn(engine, TokenLikelihood(), [same]), expected)
