"""Layers computed a second time give the same loss and gradients, bit for bit, and keep less."""

import pytest
import torch
from tests.engine.test_equality import DECODERS, ENCODERS, documents, learn
from tests.tiny import LAYERS, tiny_model

from tunesmith.data.batch import collate
from tunesmith.engine.checkpointing import Checkpointed, learning_layers
from tunesmith.engine.engine import Engine
from tunesmith.models.seeded import seeded
from tunesmith.objectives.base import TokenLogProbs
from tunesmith.objectives.classes import Classes
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import ParameterGroup

SPLITS = {"one batch": lambda e: [e], "accumulated": lambda e: [e[:2], e[2:]]}


def engine_for(family: str, technique: str, *, dropout=0.0, dtype=torch.float32, packing=True):
    options = {"lora": {"rank": 4, "dropout": dropout}, "layers": {"last": 1}}.get(technique, {})
    head = "classification" if family in ENCODERS else "causal_lm"
    labels = ("a", "b", "c") if family in ENCODERS else ()
    model = tiny_model(family, head=head, labels=labels, dropout=dropout, dtype=dtype)
    for module in model.module.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0  # would leave out whole layers, here sometimes both
    kind = TECHNIQUES.get(technique)
    member = kind(kind.Options(**options))
    with seeded(0):
        member.prepare(model)
    with torch.no_grad(), seeded(1):
        for name, parameter in model.module.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    return Engine(model, member.parameter_groups(model), dtype=dtype, packing=packing)


def learnt(engine: Engine, split: str = "one batch"):
    pooled = bool(engine.model.anatomy.head)
    with seeded(3):
        return learn(engine, Classes() if pooled else TokenLikelihood(), SPLITS[split](documents()))


def kept_bytes(engine: Engine) -> int:
    """Bytes that the backward pass holds of the forward pass."""
    held: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        learnt(engine)
    return sum(held.values())


def assert_identical(found, expected) -> None:
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    assert expected[1]
    for name, gradient in expected[1].items():
        assert torch.equal(found[1][name], gradient), name


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("technique", ["full", "lora"])
@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_loss_and_gradients_are_the_same_bit_for_bit_with_dropout(family, technique, packing):
    engine = engine_for(family, technique, dropout=0.2, packing=packing)
    expected = learnt(engine, "accumulated")
    for layers in (1, LAYERS):
        engine.checkpoints.choose(Checkpointed(layers))
        assert_identical(learnt(engine, "accumulated"), expected)


@pytest.mark.parametrize("technique", ["full", "lora", "layers"])
def test_they_are_the_same_in_bfloat16(technique):
    engine = engine_for("llama", technique, dtype=torch.bfloat16)
    expected = learnt(engine)
    engine.checkpoints.choose(Checkpointed(len(engine.checkpoints.layers), offload=True))
    assert_identical(learnt(engine), expected)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_each_more_layer_keeps_less(family):
    engine = engine_for(family, "full")
    kept = []
    for layers in range(LAYERS + 1):
        engine.checkpoints.choose(Checkpointed(layers))
        kept.append(kept_bytes(engine))
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == LAYERS + 1


def test_a_choice_can_be_taken_back():
    engine = engine_for("llama", "lora")
    before = kept_bytes(engine)
    engine.checkpoints.choose(Checkpointed(LAYERS))
    engine.checkpoints.choose(Checkpointed(0))
    assert kept_bytes(engine) == before
    layers = [engine.model.module.get_submodule(name) for name in engine.checkpoints.layers]
    assert all("forward" not in vars(layer) for layer in layers)


def test_only_layers_that_a_gradient_passes_through_are_counted():
    engine = engine_for("llama", "layers")
    assert engine.checkpoints.layers == (engine.model.anatomy.layers[-1].name,)
    with pytest.raises(ValueError, match="2 of 1 layers"):
        engine.checkpoints.choose(Checkpointed(2))
    for parameter in engine.model.module.parameters():
        parameter.requires_grad_(False)
    assert learning_layers(engine.model) == ()


def test_without_gradients_nothing_changes():
    model = tiny_model("llama", head="causal_lm")
    engine = Engine(model, [ParameterGroup({})])
    batch = collate(documents())
    expected = engine.forward(batch, TokenLogProbs).logprobs_N
    model.module.requires_grad_(True)
    engine = Engine(model, [ParameterGroup(dict(model.module.named_parameters()))])
    engine.checkpoints.choose(Checkpointed(LAYERS))
    assert torch.equal(engine.forward(batch, TokenLogProbs).logprobs_N, expected)
