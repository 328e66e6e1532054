"""What lies below the first thing that learns: found, not disturbed, not differentiated."""

import pytest
import torch
from tests.engine.test_equality import (
    DECODERS,
    ENCODERS,
    assert_same,
    documents,
    learn,
    reference_classes,
    reference_tokens,
)
from tests.tiny import LAYERS, tiny_model

from tunesmith.data.batch import collate
from tunesmith.engine.engine import Engine
from tunesmith.engine.prefix import Prefix, layers_of
from tunesmith.models.seeded import seeded
from tunesmith.objectives.classes import Classes
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import TECHNIQUES

FAMILIES = [family for family in DECODERS if family != "falcon"] + ENCODERS


def prefix_engine(family, technique="layers", *, head=None, dropout=0.0, packing=True, **options):
    """An engine of a technique under which something stays frozen."""
    head = head or ("classification" if family in ENCODERS else "causal_lm")
    labels = () if head == "causal_lm" else ("a", "b", "c")
    model = tiny_model(family, head, labels, dropout=dropout)
    for module in model.module.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0  # would leave out whole layers, those that learn as well
    kind = TECHNIQUES.get(technique)
    method = kind(kind.Options(**({"last": 1} if technique == "layers" else {}) | options))
    with seeded(0):
        method.prepare(model)
    return Engine(model, method.parameter_groups(model), packing=packing)


def frozen_output(engine) -> list[torch.Tensor]:
    """What the last frozen layer gives, whenever it is computed."""
    seen: list[torch.Tensor] = []

    def note(module, given, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    layers_of(engine.model)[engine.prefix.layers - 1].register_forward_hook(note)
    return seen


def objective_of(engine):
    return Classes() if engine.model.anatomy.head else TokenLikelihood()


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_above_a_frozen_prefix_equal_transformers(family, packing):
    engine = prefix_engine(family, packing=packing)
    assert (engine.prefix.layers, engine.prefix.whole) == (LAYERS - 1, False)
    seen = frozen_output(engine)
    found = learn(engine, objective_of(engine), [documents()[:2], documents()[2:]])
    assert not any(output.requires_grad for output in seen)
    reference = reference_classes if engine.model.anatomy.head else reference_tokens
    expected = reference(engine.model, documents())
    assert found[1].keys() == expected[1].keys() == engine.optimizer.parameters.keys()
    assert_same(found, expected)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_dropped_at_random_below_what_learns(family, packing):
    engine = prefix_engine(family, dropout=0.5, packing=packing)
    seen = frozen_output(engine)
    losses = set()
    for seed in (1, 2):
        with seeded(seed):
            losses.add(learn(engine, objective_of(engine), [documents()])[0])
    engine.forward(collate(documents()), objective_of(engine).readout)
    in_training, again, in_evaluation = seen
    assert torch.equal(in_training, again)
    assert torch.equal(in_training, in_evaluation)
    drops = any(isinstance(module, torch.nn.Dropout) for module in engine.model.module.modules())
    assert len(losses) == 2 or not drops  # above, dropout goes on


def test_a_body_on_which_only_a_head_learns_is_frozen_whole():
    engine = prefix_engine("bert", "repurpose", head="features")
    assert (engine.prefix.layers, engine.prefix.whole) == (LAYERS, True)
    with engine._mode(training=True):
        assert not any(module.training for module in engine.model.body.children())


@pytest.mark.parametrize(
    ("part", "matters"),
    [("embed_tokens.weight", True), ("layers.0.mlp.up_proj.weight", True), ("positions", True),
     ("layers.1.mlp.up_proj.weight", False), ("norm.weight", False)],
)  # fmt: skip
def test_the_digest_of_a_prefix_is_of_all_that_it_is_made_of_and_no_more(part, matters):
    engine = prefix_engine("llama")
    body = engine.model.body
    body.register_parameter("positions", torch.nn.Parameter(torch.zeros(3), requires_grad=False))
    before = engine.frozen_digest()
    body.get_parameter(part).data[0] += 1
    assert (engine.frozen_digest() != before) is matters


@pytest.mark.parametrize(
    ("technique", "options"), [("lora", {"rank": 2}), ("full", {}), ("layers", {"layers": [0]})]
)
def test_there_is_no_prefix_where_the_lowest_layer_learns(technique, options):
    last = {"last": None} if technique == "layers" else {}
    assert prefix_engine("llama", technique, **last, **options).prefix == Prefix()


def test_frozen_embeddings_below_layers_that_learn_keep_their_dropout():
    engine = prefix_engine("gpt2", "full", embeddings=False, dropout=0.5)
    with engine._mode(training=True):
        assert engine.model.module.get_submodule("transformer.drop").training


def test_a_norm_that_learns_behind_the_last_layer_ends_the_prefix():
    engine = prefix_engine("llama")
    for name, parameter in engine.model.module.named_parameters():
        parameter.requires_grad_(name == "model.norm.weight")
    again = Engine(engine.model, TECHNIQUES.get("layers")().parameter_groups(engine.model))
    assert (again.prefix.layers, again.prefix.whole) == (LAYERS, False)
    assert engine.model.module.get_submodule("model.norm") not in again.prefix.modules
