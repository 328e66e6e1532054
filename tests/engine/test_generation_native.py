"""The compiled layers say what transformers' say, and are left where a body is of another form."""

import pytest
import torch
from tests.engine.test_generation import PROMPTS, ids, stock
from tests.tiny import DECODERS, tiny_model

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine import generation_native
from tunesmith.engine.engine import Engine
from tunesmith.engine.generation import COMPILED, CONTINUOUS, PADDED, Sampling
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.techniques.lora import Lora

LLAMA_LIKE = {"llama", "qwen2", "qwen3", "gemma3", "mistral"}


@pytest.mark.parametrize("family", DECODERS)
def test_bodies_of_llamas_form_are_compiled_and_no_others(family):
    expected = PADDED if family == "falcon" else CONTINUOUS
    assert Engine(tiny_model(family)).generation() == (
        COMPILED if family in LLAMA_LIKE else expected
    )
    assert Engine(tiny_model(family), fuse=False).generation() == expected


@pytest.mark.parametrize("family", sorted(LLAMA_LIKE))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_that_16_bits_hold_say_the_same(family, dtype):
    model = tiny_model(family, dtype=dtype)
    model.module.float()
    model.module.requires_grad_(False)
    engine = Engine(model)
    assert ids(engine, Sampling(12)) == [stock(model, prompt, 12) for prompt in PROMPTS]
    assert engine.generation() == COMPILED


def test_frozen_weights_are_read_as_they_are_now():
    model = tiny_model("llama", dtype=torch.bfloat16)
    model.module.float()
    model.module.requires_grad_(False)
    engine = Engine(model)
    before = ids(engine, Sampling(8))
    for layer in model.anatomy.layers:
        for name in layer.linears:
            model.module.get_submodule(name).weight.data.mul_(-0.5)
    after = ids(engine, Sampling(8))
    assert after == [stock(model, prompt, 8) for prompt in PROMPTS]
    assert after != before


def test_what_is_learnt_between_is_in_the_next_answer():
    model = tiny_model("llama")
    technique = Lora(Lora.Options(rank=4))
    technique.prepare(model)
    engine = Engine(model, technique.parameter_groups(model))
    before = ids(engine, Sampling(8))
    batch = collate([Encoded({"text": EncodedStream((7, 8, 9, 10, 11), (0.0, 1, 1, 1, 1))})])
    objective = TokenLikelihood()
    for _ in range(3):
        engine.forward_backward(batch, objective, objective.counts(batch))
        engine.optimizer_step(0.1)
    after = ids(engine, Sampling(8))
    assert engine.generation() == COMPILED
    assert after == [stock(model, prompt, 8) for prompt in PROMPTS]
    assert after != before


def test_an_adapter_of_another_kind_is_not_compiled_and_is_right():
    model = tiny_model("llama")
    Lora(Lora.Options(rank=4, dora=True)).prepare(model)
    for name, parameter in model.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    engine = Engine(model)
    assert ids(engine, Sampling(8)) == [stock(model, prompt, 8) for prompt in PROMPTS]
    assert engine.generation() == CONTINUOUS


def test_without_a_compiler_the_stock_layers_are_taken(monkeypatch):
    monkeypatch.setattr(generation_native, "library", lambda: None)
    engine = Engine(tiny_model("llama"))
    assert engine.generation() == CONTINUOUS
    assert ids(engine, Sampling(4)) == [stock(engine.model, prompt, 4) for prompt in PROMPTS]
