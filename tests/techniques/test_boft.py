"""Butterfly rotations of several factors, with PyTorch in the place of PEFT's CUDA extension."""

import itertools

import peft
import pytest
import torch
from tests.techniques.test_adapters import IDS, batch, learn, loaded, logits
from torch import nn
from transformers import AutoModelForCausalLM

from tunesmith.engine.engine import Engine
from tunesmith.models.load import load_result
from tunesmith.models.saving import verify_saved
from tunesmith.models.seeded import seeded
from tunesmith.registry import OBJECTIVES, TECHNIQUES

BLOCK = 4


class Extension:
    """What the extension computes: blocks `[N, D, H, H]` on the diagonals of `[N, DH, DH]`."""

    def forward(self, blocks):
        return [torch.stack([torch.block_diag(*each) for each in blocks])]

    def backward(self, grad, blocks):
        size = blocks.shape[-1]
        places = range(0, grad.shape[-1], size)
        return [torch.stack([grad[:, i : i + size, i : i + size] for i in places], dim=1)]


@pytest.fixture(autouse=True)
def _extension(monkeypatch):
    monkeypatch.setattr("peft.tuners.boft.layer._FBD_CUDA", Extension())


def prepared(model, factors):
    kind = TECHNIQUES.get("boft")
    method = kind(kind.Options(block_size=BLOCK, factors=factors))
    with seeded(0):
        method.prepare(model)
    return method


def rotation(part):
    """Return what the inputs of a map are multiplied with, by the paper's formula: `[I, I]`."""
    blocks = part.boft_R["default"].detach()
    inputs, half = part.in_features, BLOCK // 2
    whole = torch.eye(inputs)
    for level, own in enumerate(blocks):
        skew = (own - own.transpose(1, 2)) / 2
        unit = torch.eye(BLOCK)
        turned = torch.block_diag(*((unit - each) @ torch.linalg.inv(unit + each) for each in skew))
        chunks = torch.arange(inputs).view(-1, half)
        groups = chunks.split(2 ** (level + 1))
        order = torch.cat([torch.cat([g[0::2], g[1::2]]).flatten() for g in groups])
        whole = turned[order][:, order] @ whole
    return whole


@pytest.mark.parametrize("factors", [2, 3])
def test_the_rotated_model_is_that_of_the_formula(bases, factors):
    model = loaded(bases("llama"), "llama")
    method = prepared(model, factors)
    learn(model, method, steps=3)
    ours = logits(model.module)
    plain = AutoModelForCausalLM.from_pretrained(bases("llama"))
    beyond = 0.0
    with torch.no_grad():
        for name, part in model.module.named_modules():
            if hasattr(part, "boft_R"):
                turned = rotation(part)
                assert turned @ turned.T == pytest.approx(torch.eye(len(turned)), abs=1e-5)
                blocks = torch.block_diag(*torch.ones(len(turned) // BLOCK, BLOCK, BLOCK))
                beyond = max(beyond, float((turned * (1 - blocks)).abs().max()))
                weight = plain.get_submodule(name).weight
                weight.copy_(part.boft_s["default"] * (weight @ turned.T))
    assert beyond > 1e-3  # inputs of other blocks are reached, as one factor reaches none
    torch.testing.assert_close(ours, logits(plain), atol=1e-4, rtol=1e-4)


def test_loss_and_gradients_equal_those_of_peft_alone(bases):
    model = loaded(bases("llama"), "llama")
    method = prepared(model, 2)
    plain = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(bases("llama")), model.peft.peft_config["default"]
    ).train()
    theirs = dict(plain.base_model.model.named_parameters())
    torch.manual_seed(1)
    for name, parameter in model.module.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
            theirs[name].data.copy_(parameter.data)
    texts = batch(model)
    engine = Engine(model, method.parameter_groups(model))
    objective = OBJECTIVES.get("token_likelihood")()
    counts = objective.counts(texts)
    found, _ = engine.forward_backward(texts, objective, counts)
    losses = []
    for first, end in itertools.pairwise(texts.text.cu_seqlens.tolist()):
        ids_T = texts.text.ids_T[first:end]
        rows = plain(input_ids=ids_T[None]).logits[0, :-1]
        losses.append(nn.functional.cross_entropy(rows, ids_T[1:], reduction="sum"))
    expected = torch.stack(losses).sum() / next(iter(counts.values()))
    expected.backward()
    assert sum(found.values()) == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in model.module.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-6)


def test_several_factors_are_saved_and_peft_gives_the_same_logits(bases, tmp_path):
    model = loaded(bases("llama"), "llama")
    method = prepared(model, 2)
    learn(model, method)
    method.save(model, tmp_path / "result")
    ours = logits(model.module)
    reader = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "result")
    torch.testing.assert_close(logits(reader), ours, atol=1e-5, rtol=1e-5)
    again = load_result(tmp_path / "result")
    torch.testing.assert_close(logits(again.module), ours, atol=1e-5, rtol=1e-5)
    assert verify_saved(model, tmp_path / "result", IDS) < 1e-5
