"""What is held on to, and what a teacher says, in models that write one text from another."""

from __future__ import annotations

import pytest
import torch
from tests.engine.test_pairs import engine_for, pairs
from tests.tiny import ENCODER_DECODERS, tiny_model
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from tunesmith.data.batch import collate
from tunesmith.objectives.base import TokenStates
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import RETAINERS
from tunesmith.retain.base import Scene


def logits(model, examples):
    """Return the logits of the whole model at every learnt place, pair by pair."""
    rows = []
    for example in examples:
        source, target = (torch.tensor([stream.ids]) for stream in example.streams.values())
        said = model.module(input_ids=source, decoder_input_ids=target, use_cache=False).logits
        rows.append(said[0, :-1])
    return torch.cat(rows)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_states_and_output_layer_give_the_logits_of_the_whole_model(family):
    model, examples = tiny_model(family, "seq2seq_lm"), pairs(family)
    output = engine_for(model).forward(collate(examples), TokenStates).output
    found = output.hidden_ND @ output.weight_VD.T
    found = found if output.bias_V is None else found + output.bias_V
    with torch.no_grad():
        expected = logits(model, examples)
    assert torch.allclose(found * output.shape.scale, expected, atol=1e-4)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_kl_equals_the_formula_on_all_logits(family):
    model, examples = tiny_model(family, "seq2seq_lm"), pairs(family)
    engine = engine_for(model)
    scene = Scene(engine, TokenLikelihood())
    kind = RETAINERS.get("kl")
    member = kind(kind.Options(weight=0.3))
    assert member.refuses(scene) is None
    member.begin(scene)
    scene.objective.further = (member.further(),)
    batch = collate(examples)
    with torch.no_grad():
        base = log_softmax(logits(model, examples), -1)
        drawn = torch.Generator().manual_seed(3)
        for parameter in engine.optimizer.parameters.values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=drawn)
    shares, _ = engine.forward_backward(batch, scene.objective, scene.objective.all_counts(batch))
    with torch.no_grad():
        now = logits(model, examples)
    targets = batch.text.targets_T[batch.text.weights_T != 0]
    kl = kl_div(log_softmax(now, -1), base, log_target=True, reduction="sum") / len(targets)
    assert shares["nll"] == pytest.approx(float(cross_entropy(now, targets)), rel=1e-4)
    assert shares["kl_to_base"] == pytest.approx(0.3 * float(kl), rel=1e-3)
