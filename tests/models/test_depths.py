"""How deep a part lies follows from when it is run: within a stack, the earlier the deeper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny import DECODERS, ENCODER_DECODERS, ENCODERS, LAYERS, MIXTURES, tiny_model

from tunesmith.models.depths import depth_of, depths
from tunesmith.models.flops import training_cost
from tunesmith.models.model import Model

MORE: dict[str, dict[str, Any]] = {
    "deberta-v2": {"norm_rel_ebd": "layer_norm", "position_buckets": 8},
}
"""What the family's published models have beside the tiny one."""


def order_of(model: Model) -> list[str]:
    """The leaves of a model that have parameters, in the order in which they are run first."""
    order: list[str] = []
    leaves = [(n, m) for n, m in model.module.named_modules() if not any(m.children())]
    held = [
        leaf.register_forward_hook(lambda *given, name=name: order.append(name))
        for name, leaf in leaves
        if any(True for _ in leaf.parameters())
    ]
    ids = torch.tensor([[7, 8, 9, 10]])
    more = {"decoder_input_ids": ids} if model.anatomy.encoder else {}
    with torch.no_grad():
        model.module(input_ids=ids, **more)
    for hook in held:
        hook.remove()
    return list(dict.fromkeys(order))


@pytest.mark.parametrize("family", [*DECODERS, *MIXTURES, *ENCODERS, *ENCODER_DECODERS])
def test_what_is_run_earlier_in_a_stack_lies_deeper(family: str) -> None:
    head = "seq2seq_lm" if family in ENCODER_DECODERS else "causal_lm"
    model = tiny_model(family, "masked_lm" if family in ENCODERS else head, **MORE.get(family, {}))
    found, anatomy = depths(model), model.anatomy
    run = order_of(model)
    assert len(run) > 2 * LAYERS
    stacks = [anatomy.encoder, anatomy.decoder] if anatomy.encoder else [anatomy.body]
    for stack in stacks:
        parts = [name for name in run if name.startswith(f"{stack}.")]
        inside = [depth_of(f"{name}.", found) for name in parts]
        assert inside == sorted(inside, reverse=True)
        assert len(set(inside)) >= LAYERS


def test_the_norm_behind_an_encoder_lies_below_the_decoder_alone() -> None:
    found = depths(tiny_model("t5", "seq2seq_lm"))
    assert depth_of("encoder.final_layer_norm.weight", found) == LAYERS
    assert depth_of("encoder.block.1.layer.0.layer_norm.weight", found) == LAYERS + 1
    assert depth_of("decoder.final_layer_norm.weight", found) == 0
    assert depth_of("shared.weight", found) == 2 * LAYERS + 1
    found = depths(tiny_model("bart", "seq2seq_lm"))
    assert depth_of("model.decoder.embed_positions.weight", found) == LAYERS + 1
    assert depth_of("model.encoder.embed_positions.weight", found) == 2 * LAYERS + 1


def test_the_norm_of_relative_positions_is_none_behind_the_layers() -> None:
    model = tiny_model("deberta-v2", "masked_lm", **MORE["deberta-v2"])
    assert "deberta.encoder.LayerNorm" in model.anatomy.norms
    assert model.anatomy.final_norms == ()
    assert depth_of("deberta.encoder.LayerNorm.weight", depths(model)) == LAYERS + 1


def test_no_gradient_of_the_encoder_is_counted_where_its_last_norm_alone_learns() -> None:
    def read(learns: str) -> float:
        model = tiny_model("t5", "seq2seq_lm")
        for name, parameter in model.module.named_parameters():
            parameter.requires_grad_(name.startswith(learns))
        return training_cost(model.module, model.anatomy).read

    forward = read("decoder.final_layer_norm")
    assert read("encoder.final_layer_norm") == forward
    assert read("encoder.block.0") == 3 * forward
