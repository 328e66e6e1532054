"""What an encoder-decoder's backward pass holds is foretold from small pairs."""

from __future__ import annotations

import pytest
import torch
from tests.engine.test_pairs import engine_for
from tests.tiny import ENCODER_DECODERS, tiny_model

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.data.plan import Plan
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.runs.shape import written_share
from tunesmith.training.memory import Memory, MicroBatch


def pairs(source: int, target: int, count: int = 3) -> list[Encoded]:
    drawn = torch.Generator().manual_seed(0)
    ids = [torch.randint(10, 90, (count, n), generator=drawn).tolist() for n in (source, target)]
    weights = (0.0, *[1.0] * (target - 1))
    return [
        Encoded({"source": EncodedStream(tuple(s)), "target": EncodedStream(tuple(t), weights)})
        for s, t in zip(*ids, strict=True)
    ]


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@pytest.mark.parametrize(("source", "target"), [(100, 25), (40, 80)])
def test_what_is_held_is_foretold_whichever_side_is_longer(family, source, target):
    engine = engine_for(tiny_model(family, "seq2seq_lm"))
    examples = pairs(source, target)
    plan = Plan(examples, TokenLikelihood().counts, batch_size=3, tokens_per_batch=1000)
    share = written_share(plan, engine.packed)
    assert share == pytest.approx(target / (source + target))
    batch = collate(examples)
    foretold = Memory(engine, share)._held.at(MicroBatch.of(batch, engine))
    held = engine.held(batch)
    assert sum(foretold.inside) == pytest.approx(sum(held.inside), rel=0.15)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_one_long_pair_among_short_ones_is_foretold(family):
    engine = engine_for(tiny_model(family, "seq2seq_lm"))
    examples = pairs(90, 90, 1) + pairs(10, 10, 15)
    batch = collate(examples)
    foretold = Memory(engine, 0.5)._held.at(MicroBatch.of(batch, engine))
    held = engine.held(batch)
    assert sum(foretold.inside) == pytest.approx(sum(held.inside), rel=0.2)


def test_the_parts_of_packed_pairs_are_counted_without_padding():
    examples = pairs(20, 80, 1) + pairs(20, 10, 3)
    plan = Plan(examples, TokenLikelihood().counts, batch_size=4, tokens_per_batch=1000)
    assert written_share(plan, packed=True) == pytest.approx(110 / 190)
    assert written_share(plan, packed=False) == pytest.approx(320 / 400)


def test_layers_that_are_dropped_at_random_are_counted_all_the_same():
    model = tiny_model("bart", "seq2seq_lm", dropout=0.5)
    engine = engine_for(model)
    assert len(engine.held(collate(pairs(10, 10))).inside) == 4
    assert model.module.model.encoder.layerdrop == 0.5
