"""Model FLOPs of encoder-decoders equal what PyTorch counts of the plain model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.tiny import ENCODER_DECODERS, HIDDEN, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.models.flops import Work, training_cost
from tunesmith.registry import TECHNIQUES

SOURCE, TARGET = 13, 7


def counted(model) -> int:
    model.module.set_attn_implementation("eager")
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randint(10, 90, (1, n), generator=generator) for n in (SOURCE, TARGET))
    with FlopCounterMode(display=False) as counter:
        logits = model.module(input_ids=source, decoder_input_ids=target, use_cache=False).logits
        logits.sum().backward()
    return counter.get_total_flops()


def expected(model) -> float:
    """The plain model computes all scores and masks them; so that it can be compared."""
    cost = replace(training_cost(model.module, model.anatomy), causal=False)
    return cost.flops(Work((TARGET,), TARGET, (SOURCE,)))


def prepared(family: str, technique: str, **options):
    model = tiny_model(family, "seq2seq_lm")
    member = TECHNIQUES.get(technique)
    member(member.Options(**options)).prepare(model)
    return model


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_flops_equal_those_that_pytorch_counts(family):
    model = prepared(family, "full")
    assert expected(model) == counted(model)


def test_below_the_last_layer_no_gradient_is_counted():
    model = prepared("t5", "layers", last=1)
    assert expected(model) == counted(model)


@pytest.mark.parametrize("family", ["bart", "marian"])
def test_only_the_first_layers_input_is_counted_too_much(family):
    """The stated excess: q, k, v of the lowest layer that learns do without that gradient."""
    model = prepared(family, "layers", last=1)
    assert expected(model) - counted(model) == TARGET * 3 * 2 * HIDDEN * HIDDEN


def test_adapters_cost_more_than_the_frozen_model_and_less_than_all_of_it():
    costs = {}
    for technique in ("full", "lora"):
        model = tiny_model("t5", "seq2seq_lm")
        TECHNIQUES.get(technique)().prepare(model)
        costs[technique] = training_cost(model.module, model.anatomy).source
    model = tiny_model("t5", "seq2seq_lm")
    frozen = sum(2 * p.numel() for p in model.module.encoder.parameters() if p.ndim == 2)
    assert frozen < costs["lora"]
    assert costs["full"] > 0


def test_work_tells_sources_from_targets():
    streams = {
        "source": EncodedStream((1, 2, 3)),
        "target": EncodedStream((4, 5), (0.0, 1.0)),
    }
    assert Work.of(collate([Encoded(streams)])) == Work((2,), 1, (3,))
