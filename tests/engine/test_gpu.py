"""On a CUDA device: the same losses, gradients and answers as on the CPU, packed and padded."""

import pytest
import torch
from tests.engine.test_equality import assert_same, documents, engine_for, learn
from tests.tiny import tiny_model

from tunesmith.data.batch import collate
from tunesmith.engine.engine import Engine
from tunesmith.engine.generation import Sampling
from tunesmith.engine.precision import choose_dtype
from tunesmith.errors import RecipeError
from tunesmith.kernels.precision import refuses_float8
from tunesmith.models.seeded import seeded
from tunesmith.objectives.base import TokenLogProbs
from tunesmith.objectives.classes import Classes
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import ParameterGroup

pytestmark = pytest.mark.gpu


def on(device: str, family: str, **options):
    model = tiny_model(family, **options)
    model.module.to(device)
    return model


def lora(model, dtype=torch.float32) -> Engine:
    kind = TECHNIQUES.get("lora")
    technique = kind(kind.Options(rank=4))
    with seeded(0):
        technique.prepare(model)
    with torch.no_grad(), seeded(1):
        for name, parameter in model.module.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    return Engine(model, technique.parameter_groups(model), dtype=dtype)


@pytest.fixture(autouse=True)
def _full_float32():
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3", "gpt2", "opt"])
def test_token_loss_and_gradients_equal_those_on_the_cpu(family, packing):
    found = [
        learn(engine_for(on(device, family), packing=packing), TokenLikelihood(), [documents()])
        for device in ("cuda", "cpu")
    ]
    moved = (found[0][0], {name: grad.cpu() for name, grad in found[0][1].items()})
    assert_same(moved, found[1])


@pytest.mark.parametrize("family", ["llama", "bert", "roberta", "distilbert"])
def test_class_loss_and_gradients_equal_those_on_the_cpu(family):
    options = {"head": "classification", "labels": ("a", "b", "c")}
    found = [
        learn(engine_for(on(device, family, **options)), Classes(), [documents()])
        for device in ("cuda", "cpu")
    ]
    moved = (found[0][0], {name: grad.cpu() for name, grad in found[0][1].items()})
    assert_same(moved, found[1])


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_lora_gradients_equal_those_on_the_cpu(family):
    found = [
        learn(lora(on(device, family)), TokenLikelihood(), [documents()])
        for device in ("cuda", "cpu")
    ]
    moved = (found[0][0], {name: grad.cpu() for name, grad in found[0][1].items()})
    assert_same(moved, found[1])


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_bfloat16_learns_what_float32_learns(family):
    exact = learn(lora(on("cuda", family)), TokenLikelihood(), [documents()])
    model = on("cuda", family, dtype=torch.bfloat16)
    loss, grads = learn(lora(model, torch.bfloat16), TokenLikelihood(), [documents()])
    assert loss == pytest.approx(exact[0], rel=2e-2)
    for name, expected in exact[1].items():
        assert torch.cosine_similarity(grads[name].flatten(), expected.flatten(), 0) > 0.98, name


def test_float8_learns_what_the_processor_makes_of_it():
    if refuses_float8(torch.device("cuda")):
        with pytest.raises(RecipeError, match="does not multiply 8-bit numbers"):
            choose_dtype("float8", torch.device("cuda"))
        return
    found = []
    for device in ("cuda", "cpu"):
        model = on(device, "llama")
        parameters = {n: p.requires_grad_() for n, p in model.module.named_parameters()}
        engine = Engine(model, [ParameterGroup(parameters)], dtype=torch.bfloat16, float8=True)
        found.append(learn(engine, TokenLikelihood(), [documents()]))
    (loss, grads), (expected, others) = found
    assert loss == pytest.approx(expected, rel=1e-2)
    for name, grad in grads.items():
        other = others[name].flatten()
        assert torch.cosine_similarity(grad.cpu().flatten(), other, 0) > 0.95, name


def test_generation_equals_that_on_the_cpu():
    prompts = [[11, 12, 13], [21, 22, 23, 24, 25, 26]]
    answers = [
        [g.ids for g in Engine(on(device, "llama")).generate(prompts, Sampling(10))]
        for device in ("cuda", "cpu")
    ]
    assert answers[0] == answers[1]


def test_documents_of_a_pack_do_not_see_each_other_in_bfloat16():
    engine = lora(on("cuda", "llama", dtype=torch.bfloat16), torch.bfloat16)
    assert engine.packed
    rows = documents(3)
    together = engine.forward(collate(rows), TokenLogProbs).logprobs_N
    alone = torch.cat([engine.forward(collate([r]), TokenLogProbs).logprobs_N for r in rows])
    torch.testing.assert_close(together, alone, rtol=5e-2, atol=5e-2)
