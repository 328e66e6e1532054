"""Loss and gradients equal transformers' own, packed or padded, in one batch or in many."""

import pytest
import torch
from tests.tiny import tiny_model

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.data.plan import add_counts
from tunesmith.engine.engine import Engine
from tunesmith.objectives.classes import Classes
from tunesmith.objectives.token_classes import TokenClasses
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.techniques.base import ParameterGroup

DECODERS = ["llama", "qwen2", "qwen3", "gemma3", "mistral", "phi3", "opt", "gpt2", "gpt_neox"]
ENCODERS = ["bert", "roberta", "distilbert", "deberta-v2"]
TOLERANCE = 1e-5


def documents(count: int = 5) -> list[Encoded]:
    """Ragged documents; every second token from the third on is learnt."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for index in range(count):
        ids = torch.randint(10, 90, (5 + 3 * index,), generator=generator).tolist()
        weights = tuple(float(i > 1 and i % 2 == 0) for i in range(len(ids)))
        found.append(Encoded({"text": EncodedStream(tuple(ids), weights)}, label=index % 3))
    return found


def engine_for(model, **options) -> Engine:
    parameters = {n: p.requires_grad_() for n, p in model.module.named_parameters()}
    return Engine(model, [ParameterGroup(parameters)], **options)


def gradients(model) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.module.named_parameters()
        if parameter.grad is not None
    }


def learn(engine, objective, groups):
    """Gradients and loss of one step over micro-batches."""
    batches = [collate(group) for group in groups]
    counts = add_counts([objective.counts(batch) for batch in batches])
    for parameter in engine.model.module.parameters():
        parameter.grad = None
    losses = [engine.forward_backward(batch, objective, counts)[0] for batch in batches]
    return sum(loss["nll"] for loss in losses), gradients(engine.model)


def reference_tokens(model, examples):
    """transformers' loss with labels, document by document, as one mean over all targets."""
    model.module.zero_grad(set_to_none=True)
    learnt = sum(example.streams["text"].trained() for example in examples)
    total = 0.0
    for example in examples:
        stream = example.streams["text"]
        ids = torch.tensor([stream.ids])
        labels = torch.tensor(
            [[i if w else -100 for i, w in zip(stream.ids, stream.weights, strict=True)]]
        )
        labels[:, 0] = -100
        loss = model.module(input_ids=ids, labels=labels).loss * stream.trained() / learnt
        loss.backward()
        total += float(loss.detach())
    return total, gradients(model)


def reference_classes(model, examples):
    model.module.zero_grad(set_to_none=True)
    total = 0.0
    for example in examples:
        ids = torch.tensor([example.streams["text"].ids])
        loss = model.module(input_ids=ids, labels=torch.tensor([example.label])).loss
        (loss / len(examples)).backward()
        total += float(loss.detach()) / len(examples)
    return total, gradients(model)


def assert_same(found, expected):
    loss, grads = found
    expected_loss, expected_grads = expected
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    scale = max(float(g.norm()) for g in expected_grads.values())
    for name, expected_grad in expected_grads.items():
        if expected_grad.norm() < 1e-6 * scale:  # a gradient of zero, but for rounding
            assert grads[name].norm() < 1e-5 * scale, name
            continue
        error = (grads[name] - expected_grad).norm() / expected_grad.norm()
        assert error <= TOLERANCE, (name, float(error))


SPLITS = {"one batch": lambda e: [e], "accumulated": lambda e: [e[:2], e[2:3], e[3:]]}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", DECODERS)
def test_token_loss_and_gradients_equal_transformers(family, packing, split):
    model = tiny_model(family, head="causal_lm")
    engine = engine_for(model, packing=packing)
    assert engine.packed == packing
    found = learn(engine, TokenLikelihood(), SPLITS[split](documents()))
    assert_same(found, reference_tokens(model, documents()))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2", *ENCODERS])
def test_class_loss_and_gradients_equal_transformers(family, packing, split):
    model = tiny_model(family, head="classification", labels=("a", "b", "c"))
    engine = engine_for(model, packing=packing)
    found = learn(engine, Classes(), SPLITS[split](documents()))
    assert_same(found, reference_classes(model, documents()))


def test_a_model_that_lets_documents_see_each_other_is_padded():
    model = tiny_model("deberta-v2", head="classification", labels=("a", "b"))
    assert not engine_for(model, packing=True).packed


@pytest.mark.parametrize("family", DECODERS)
def test_the_stock_forms_of_modules_give_the_same(family):
    model = tiny_model(family, head="causal_lm")
    fused = learn(engine_for(model), TokenLikelihood(), [documents()])
    model = tiny_model(family, head="causal_lm")
    plain = learn(engine_for(model, fuse=False), TokenLikelihood(), [documents()])
    assert_same(fused, plain)


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("family", ["llama", "gpt2", *ENCODERS])
def test_a_token_that_is_also_the_padding_is_read_and_learnt_like_any_other(family, packing):
    """What is padding is known by its place: as last, inner and first token of texts beside longer
    ones, the id that pads learns what it learns where nothing is padded."""
    head, labels = ("causal_lm", ()) if family in DECODERS else ("tagging", ("a", "b", "c"))
    padding = tiny_model(family, head, labels).tokenizer.pad_token_id
    padding = 0 if padding is None else padding
    rows = [(padding, 12, 13, 14), tuple(range(20, 33)), (15, padding, 17, padding, padding)]
    if family in DECODERS:
        objective, streams = TokenLikelihood(), [EncodedStream(r, (1.0,) * len(r)) for r in rows]
    else:
        objective = TokenClasses()
        streams = [EncodedStream(r, classes=tuple(i % 3 for i in range(len(r)))) for r in rows]
    examples = [Encoded({"text": stream}) for stream in streams]

    def learnt(groups):
        return learn(
            engine_for(tiny_model(family, head, labels), packing=packing), objective, groups
        )

    assert_same(learnt([examples]), learnt([[example] for example in examples]))
