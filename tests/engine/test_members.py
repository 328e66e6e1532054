"""Several heads on one body learn what each would learn alone, by its share of the step."""

from dataclasses import replace

import pytest
import torch
from tests.engine.test_equality import (
    TOLERANCE,
    documents,
    gradients,
    reference_classes,
    reference_tokens,
)
from tests.tiny import tiny_model

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.data.plan import add_counts
from tunesmith.engine.engine import Engine
from tunesmith.models.members import share_body
from tunesmith.objectives.base import ByMember, PerToken, Pooled
from tunesmith.objectives.classes import Classes
from tunesmith.objectives.token_classes import TokenClasses
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.techniques.base import ParameterGroup

LABELS = ("a", "b", "c")


def two_headed(family: str, first: str, second: str):
    """A model with a second head on its body, and that second model."""
    model = tiny_model(family, first, LABELS if first != "causal_lm" else ())
    other = tiny_model(family, second, LABELS, seed=1)
    share_body(model, other)
    model.members = {"first": model, "second": other}
    return model, other


def engine_of(model) -> Engine:
    named = dict(model.module.named_parameters())
    for member, other in model.members.items():
        known = set(map(id, named.values()))
        named |= {
            f"{member}.{n}": p for n, p in other.module.named_parameters() if id(p) not in known
        }
    return Engine(model, [ParameterGroup({n: p.requires_grad_() for n, p in named.items()})])


def step_of(objective, parts):
    """Batches of a step and its counts; `parts` are (member, share, examples) each."""
    batches = [
        replace(collate(examples), member=member, share=share) for member, share, examples in parts
    ]
    return batches, add_counts([objective.all_counts(batch) for batch in batches])


def test_one_member_alone_learns_what_it_learns_without_others():
    alone, among = tiny_model("llama"), tiny_model("llama")
    among.members = {"text": among}
    groups = (documents()[:2], documents()[2:])

    plain = TokenLikelihood()
    engine = engine_of(alone)
    batches = [collate(group) for group in groups]
    counts = add_counts([plain.all_counts(batch) for batch in batches])
    expected = [engine.forward_backward(batch, plain, counts)[0]["nll"] for batch in batches]

    objective = ByMember({"text": TokenLikelihood()})
    batches, counts = step_of(objective, [("text", 1.0, group) for group in groups])
    engine = engine_of(among)
    found = [engine.forward_backward(batch, objective, counts)[0] for batch in batches]

    assert [terms["text/nll"] for terms in found] == expected
    ours, theirs = gradients(among), gradients(alone)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma3"])
def test_a_text_and_a_class_learn_the_sum_of_what_each_learns_in_plain_transformers(family):
    model, other = two_headed(family, "causal_lm", "classification")
    texts, labelled = documents(4), documents(6)
    expected: dict[int, torch.Tensor] = {}
    loss = 0.0
    for share, own, reference, examples in (
        (0.4, model, reference_tokens, texts),
        (0.6, other, reference_classes, labelled),
    ):
        loss += share * reference(own, examples)[0]
        for parameter in own.module.parameters():
            if parameter.grad is not None:
                added = share * parameter.grad
                expected[id(parameter)] = expected.get(id(parameter), 0.0) + added
        own.module.zero_grad(set_to_none=True)

    engine = engine_of(model)
    objective = ByMember({"first": TokenLikelihood(), "second": Classes()})
    parts = [("first", 0.4, texts), ("second", 0.6, labelled[:3]), ("second", 0.6, labelled[3:])]
    batches, counts = step_of(objective, parts)
    total = sum(
        sum(engine.forward_backward(batch, objective, counts)[0].values()) for batch in batches
    )

    assert total == pytest.approx(loss, rel=TOLERANCE)
    learnt = engine.optimizer.parameters.values()
    assert {id(p) for p in learnt if p.grad is not None} == set(expected)
    for parameter in learnt:
        if parameter.grad is not None:
            torch.testing.assert_close(
                parameter.grad, expected[id(parameter)], rtol=1e-4, atol=TOLERANCE
            )


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "deberta-v2"])
def test_each_head_of_an_encoder_says_what_its_stock_class_says(family):
    model, other = two_headed(family, "tagging", "classification")
    ids = tuple(range(20, 33))
    classes = (0, 1, 2) * 4 + (0,)
    tagged = replace(
        collate([Encoded({"text": EncodedStream(ids, classes=classes)})]), member="first"
    )
    labelled = replace(collate([Encoded({"text": EncodedStream(ids)}, label=1)]), member="second")
    engine = engine_of(model)
    with torch.no_grad():
        of_tokens = model.module(input_ids=torch.tensor([ids])).logits[0]
        of_text = other.module(input_ids=torch.tensor([ids])).logits
    torch.testing.assert_close(engine.forward(tagged, PerToken).outputs_TC, of_tokens)
    torch.testing.assert_close(engine.forward(labelled, Pooled).outputs_BC, of_text)
    with engine.answering_as("second"):
        unnamed = replace(labelled, member="")
        torch.testing.assert_close(engine.forward(unnamed, Pooled).outputs_BC, of_text)
    objective = ByMember({"first": TokenClasses(), "second": Classes()})
    counts = add_counts([objective.all_counts(batch) for batch in (tagged, labelled)])
    terms = [engine.forward_backward(batch, objective, counts)[0] for batch in (tagged, labelled)]
    assert [set(found) for found in terms] == [{"first/nll"}, {"second/nll"}]


def test_a_second_head_keeps_its_own_pooler_and_shares_all_below():
    model, other = two_headed("bert", "classification", "classification")
    shared = set(map(id, model.module.parameters())) & set(map(id, other.module.parameters()))
    own = {n for n, p in other.module.named_parameters() if id(p) not in shared}
    assert {name.rsplit(".", 1)[0] for name in own} == {"bert.pooler.dense", "classifier"}


def test_the_output_layer_stays_tied_to_the_shared_embeddings():
    model, other = two_headed("gpt2", "causal_lm", "classification")
    assert model.anatomy.tied
    table = other.module.get_input_embeddings().weight
    assert table is model.module.get_output_embeddings().weight
