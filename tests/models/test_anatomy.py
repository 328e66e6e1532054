"""The anatomy names parts that exist and are what they are said to be, in every family."""

import pytest
import torch
from tests.tiny import CONTEXT, DECODERS, ENCODERS, HIDDEN, LAYERS, tiny_model
from torch import nn

from tunesmith.models.anatomy.study import is_linear

ALL = [(family, head) for family in DECODERS for head in ("causal_lm", "classification")]
ALL += [(family, "classification") for family in ENCODERS]


@pytest.fixture(params=ALL, ids=lambda case: "-".join(case))
def model(request):
    family, head = request.param
    return tiny_model(family, head, ("a", "b", "c") if head == "classification" else ())


def test_kind_is_read_from_the_family(model):
    family = model.source.name.removeprefix("tiny-")
    assert model.anatomy.kind == ("decoder" if family in DECODERS else "encoder")


def test_sizes_are_those_of_the_configuration(model):
    anatomy = model.anatomy
    assert (anatomy.hidden_size, anatomy.vocab_size) == (HIDDEN, model.module.config.vocab_size)
    assert anatomy.context_length == CONTEXT
    assert len(anatomy.layers) == LAYERS


def test_body_gives_hidden_states_of_every_token(model):
    hidden = model.body(input_ids=torch.tensor([[7, 8, 9, 10]]))[0]
    assert hidden.shape == (1, 4, HIDDEN)


def test_embeddings_are_what_the_body_looks_ids_up_in(model):
    embeddings = model.module.get_submodule(model.anatomy.embeddings)
    assert isinstance(embeddings, nn.Embedding)
    assert embeddings is model.body.get_input_embeddings()


def test_every_linear_map_is_in_a_layer_or_belongs_to_the_task(model):
    anatomy = model.anatomy
    named = {name for layer in anatomy.layers for name in layer.linears}
    apart = (anatomy.output or "-", *anatomy.task_modules)
    for name, part in model.module.named_modules():
        if is_linear(part) and not name.startswith(apart):
            assert name in named
    assert all(is_linear(model.module.get_submodule(name)) for name in named)


def test_vectors_that_are_no_bias_belong_to_norms(model):
    norms = {f"{name}." for name in model.anatomy.norms}
    for name, parameter in model.module.named_parameters():
        if parameter.ndim == 1 and not name.endswith("bias"):
            assert any(name.startswith(norm) for norm in norms), name


def test_tying_is_seen(model):
    anatomy = model.anatomy
    if anatomy.output is None:
        assert not anatomy.tied
        return
    embedded = model.module.get_submodule(anatomy.embeddings).weight
    assert anatomy.tied == (model.output_weight_VD.data_ptr() == embedded.data_ptr())
    assert anatomy.tied == model.module.config.tie_word_embeddings


def test_head_is_all_that_is_not_pre_trained(model):
    anatomy = model.anatomy
    pre_trained = (f"{anatomy.body}.", f"{anatomy.output}.")
    for name, _ in model.module.named_parameters():
        in_head = any(name.startswith(f"{part}.") for part in anatomy.head)
        assert in_head != name.startswith(pre_trained), name


@pytest.mark.parametrize("family", DECODERS)
def test_the_norm_behind_the_last_layer_is_found(family):
    model = tiny_model(family)
    (norm,) = model.anatomy.final_norms
    inputs = []
    model.module.get_submodule(norm).register_forward_hook(lambda *seen: inputs.append(seen[2]))
    hidden = model.body(input_ids=torch.tensor([[7, 8]]))[0]
    assert torch.equal(inputs[0], hidden)


def test_hidden_size_is_that_of_the_bodys_output():
    model = tiny_model("opt", "classification", ("a", "b"), word_embed_proj_dim=16)
    assert model.body(input_ids=torch.tensor([[7]]))[0].shape[-1] == model.anatomy.hidden_size


def test_an_encoder_that_ends_in_its_layers_has_no_final_norm():
    assert tiny_model("bert", "classification", ("a", "b")).anatomy.final_norms == ()


def test_position_numbers_that_begin_late_shorten_the_context():
    model = tiny_model("roberta", "classification", ("a", "b"))
    assert model.anatomy.context_length == model.module.config.max_position_embeddings - 1
    longest = torch.full((1, model.anatomy.context_length), 9)
    assert torch.isfinite(model.module(input_ids=longest).logits).all()
    with pytest.raises((IndexError, RuntimeError)):
        model.module(input_ids=torch.full((1, model.anatomy.context_length + 1), 9))
