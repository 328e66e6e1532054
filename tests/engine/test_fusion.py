"""The fast forms of modules with LoRA give what the stock forms give, and step aside when asked."""

import pytest
import torch
from tests.dropping import stock_modules_drop_alike
from tests.tiny import tiny_model

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.engine import Engine
from tunesmith.models.seeded import seeded
from tunesmith.objectives.base import TokenLogProbs
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import OBJECTIVES, TECHNIQUES

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma3", "phi3", "gpt2"]


def batch(lengths=(5, 17, 9)):
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(10, 90, (n,), generator=generator).tolist() for n in lengths]
    return collate([Encoded({"text": EncodedStream(tuple(r), (1.0,) * len(r))}) for r in rows])


def engine(family, *, fuse, dropout=0.0, dtype=torch.float64):
    model = tiny_model(family, head="causal_lm")
    kind = TECHNIQUES.get("lora")
    technique = kind(kind.Options(rank=4, dropout=dropout))
    with seeded(0):
        technique.prepare(model)
        for name, parameter in model.module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    model.module.to(dtype)
    return Engine(model, technique.parameter_groups(model), fuse=fuse, dtype=dtype)


def learn(engine):
    objective = TokenLikelihood()
    with seeded(5):
        terms, _ = engine.forward_backward(batch(), objective, objective.counts(batch()))
    return terms["nll"], {n: p.grad.clone() for n, p in engine.optimizer.parameters.items()}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("family", FAMILIES)
def test_fast_forms_give_the_gradients_of_the_stock_forms(family, dropout):
    loss, gradients = learn(engine(family, fuse=True, dropout=dropout))
    with stock_modules_drop_alike():
        expected_loss, expected = learn(engine(family, fuse=False, dropout=dropout))
    # Rotary angles, and the norms of transformers, are float32 whatever the model computes in.
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-12, name


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_llama_like_models_are_fast_in_every_part(family):
    kernels = engine(family, fuse=True).kernels
    assert kernels["attention"] == "2 fast"
    assert kernels["feed-forward"] == "2 fast"
    assert kernels["norms"] == "5 fast"


def test_an_adapter_switched_off_is_off_in_the_fast_forms():
    fast, stock = (engine("llama", fuse=fuse) for fuse in (True, False))
    off, on = (fast.forward(batch(), TokenLogProbs, adapter=a).logprobs_N for a in ("off", "on"))
    plain = stock.forward(batch(), TokenLogProbs, adapter="off").logprobs_N
    assert torch.allclose(off, plain, atol=1e-6)
    assert not torch.allclose(off, on, atol=1e-3)


def test_a_merged_adapter_is_seen_by_the_fast_forms():
    fast = engine("llama", fuse=True)
    before = fast.forward(batch(), TokenLogProbs).logprobs_N
    fast.model.peft.merge_adapter()
    merged = fast.forward(batch(), TokenLogProbs).logprobs_N
    fast.model.peft.unmerge_adapter()
    after = fast.forward(batch(), TokenLogProbs).logprobs_N
    assert torch.allclose(before, merged, atol=1e-6)
    assert torch.allclose(before, after, atol=1e-6)


def test_names_and_weights_of_a_model_stay_as_they_were():
    fast, stock = (engine("llama", fuse=fuse).model.module.state_dict() for fuse in (True, False))
    assert fast.keys() == stock.keys()
    assert all(torch.equal(fast[name], stock[name]) for name in stock)


@pytest.mark.parametrize("family", ["gpt2", "bert", "distilbert"])
def test_a_models_own_dropout_drops_the_same_in_the_fast_forms(family):
    head, labels = ("causal_lm", ()) if family == "gpt2" else ("classification", ("no", "yes"))

    def made(fuse):
        model = tiny_model(family, head, labels, dropout=0.3)
        groups = TECHNIQUES.get("full")().parameter_groups(model)
        return Engine(model, groups, fuse=fuse)

    fast, stock = made(True), made(False)
    assert "fast" in fast.kernels["dropout"]
    texts = [Encoded({"text": EncodedStream(tuple(range(10, 10 + n)), (1.0,) * n)}, label=n % 2)
             for n in (5, 17, 9)]  # fmt: skip
    objective = OBJECTIVES.get("token_likelihood" if head == "causal_lm" else "classes")()
    found = []
    for engine in (fast, stock):
        with seeded(5), stock_modules_drop_alike():
            texts_ = collate(texts)
            engine.forward_backward(texts_, objective, objective.counts(texts_))
        found.append({n: p.grad for n, p in engine.optimizer.parameters.items()})
    for name, gradient in found[1].items():
        assert (found[0][name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-12, name
