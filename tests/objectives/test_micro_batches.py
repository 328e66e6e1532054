"""One reduction for every objective: many micro-batches, or padded ones, learn what one learns.

Ragged examples with different numbers of targets, one at a time, in twos, or all at once: the loss
of the step and every gradient are the same, because each term is a sum over the step divided by its
count over the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from tests.tiny import tiny_model

from tunesmith.data.batch import NO_CLASS, Encoded, EncodedStream, collate
from tunesmith.data.plan import add_counts
from tunesmith.engine.engine import Engine
from tunesmith.objectives.base import Objective, Taught
from tunesmith.registry import OBJECTIVES
from tunesmith.techniques.base import ParameterGroup

LENGTHS = (5, 17, 3, 11, 8, 23)
ABC = ("a", "b", "c")


def ids(place: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(place)
    return tuple(torch.randint(10, 90, (LENGTHS[place],), generator=generator).tolist())


def learnt(place: int) -> Encoded:
    """A text of which fewer tokens are learnt the longer it is, one of them by half."""
    weights = [1.0 if i % (place + 1) == 1 else 0.0 for i in range(LENGTHS[place])]
    weights[1] = 0.5
    return Encoded({"text": EncodedStream(ids(place), tuple(weights))})


def called(place: int, share: int) -> Encoded:
    """A text of which some tokens have a class."""
    classes = [i % 3 if i % share == 0 else NO_CLASS for i in range(LENGTHS[place])]
    return Encoded({"text": EncodedStream(ids(place), classes=tuple(classes))})


def labelled(place: int, label: Callable[[int], Any]) -> Encoded:
    return Encoded({"text": EncodedStream(ids(place))}, label(place))


@dataclass(frozen=True)
class Case:
    """A model, and its examples by place."""

    family: str
    head: str
    labels: tuple[str, ...]
    example: Callable[[int], Encoded]


CASES = {
    "token_likelihood": Case("llama", "causal_lm", (), learnt),
    "distillation": Case("llama", "causal_lm", (), learnt),
    "masked_likelihood": Case("bert", "masked_lm", (), partial(called, share=4)),
    "token_classes": Case("bert", "tagging", ABC, partial(called, share=2)),
    "classes": Case("bert", "classification", ABC, partial(labelled, label=lambda i: i % 3)),
    "class_distillation": Case(
        "bert", "classification", ABC, partial(labelled, label=lambda i: i % 3)
    ),
    "binary_classes": Case(
        "bert", "multi_label", ABC, partial(labelled, label=lambda i: (1.0, i % 2, 0.5))
    ),
    "squared_error": Case(
        "bert", "regression", ("score",), partial(labelled, label=lambda i: i - 1.5)
    ),
    "spans": Case(
        "bert", "extraction", (), partial(labelled, label=lambda i: (i % 3, LENGTHS[i] - 1))
    ),
}
SPLITS = {"one at a time": 1, "in twos": 2, "in fours": 4}


def objective_of(name: str, case: Case) -> Objective:
    kind = OBJECTIVES.get(name)
    if not issubclass(kind, Taught):
        return kind()
    made = kind(kind.Options(teacher="t", temperature=2.0, weight=0.3))
    made.learn_from(Engine(tiny_model(case.family, case.head, case.labels, seed=5)))
    return made


def learn(
    case: Case, objective: Objective, groups: Sequence[Sequence[Encoded]], packing: bool
) -> tuple[float, dict[str, torch.Tensor]]:
    model = tiny_model(case.family, case.head, case.labels)
    names = {n: p.requires_grad_() for n, p in model.module.named_parameters()}
    engine = Engine(model, [ParameterGroup(names)], packing=packing)
    batches = [collate(group) for group in groups]
    counts = add_counts([objective.all_counts(batch) for batch in batches])
    shares = [engine.forward_backward(batch, objective, counts)[0] for batch in batches]
    total = sum(share for each in shares for share in each.values())
    return total, {n: p.grad for n, p in names.items() if p.grad is not None}


def test_every_objective_is_tried_or_compares_the_records_of_a_step() -> None:
    whole = {name for name in OBJECTIVES.names() if OBJECTIVES.get(name).whole_step}
    assert set(CASES) | whole == set(OBJECTIVES.names())
    assert not set(CASES) & whole


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", CASES)
def test_micro_batches_learn_what_one_batch_learns(name: str, split: str, packing: bool) -> None:
    case = CASES[name]
    examples = [case.example(place) for place in range(len(LENGTHS))]
    size = SPLITS[split]
    groups = [examples[i : i + size] for i in range(0, len(examples), size)]
    loss, gradients = learn(case, objective_of(name, case), groups, packing)
    whole, expected = learn(case, objective_of(name, case), [examples], packing=True)
    assert loss == pytest.approx(whole, rel=1e-5)
    assert gradients.keys() == expected.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for parameter, gradient in expected.items():
        difference = float((gradients[parameter] - gradient).norm())
        # Some gradients are zero but for rounding: a bias of keys moves no score.
        assert difference <= 1e-5 * float(gradient.norm()) + 5e-7 * largest, parameter
