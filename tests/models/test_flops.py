"""Model FLOPs: equal to a count by hand, and to what PyTorch counts of the plain model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.tiny import DECODERS, HEADS, HIDDEN, LAYERS, tiny_model, tiny_module
from torch.utils.flop_counter import FlopCounterMode

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.engine import Engine
from tunesmith.models.anatomy import study
from tunesmith.models.flops import Cost, Work, pairs, training_cost
from tunesmith.models.heads import pool_documents
from tunesmith.models.learning import freeze
from tunesmith.models.model import Model
from tunesmith.registry import TECHNIQUES

LENGTH, TARGETS = 19, [3, 5, 7]
WORK = Work((LENGTH,), len(TARGETS))
_BEFORE_TEXTS = ("PromptTuning", "PTuning", "PrefixTuning")
Q, KV, INNER = HIDDEN * HIDDEN, HIDDEN * HIDDEN // 2, HIDDEN * 48
LAYER = 2 * Q + 2 * KV + 3 * INNER
"""Weights of a tiny Llama layer: q and o; k and v of half the heads; gate, up and down."""


def prepared(family: str, technique: str, head: str = "causal_lm", **options: Any) -> Model:
    labels = ("a", "b", "c") if head == "classification" else ()
    model = tiny_model(family, head, labels)
    if TECHNIQUES.get(technique).__name__ in _BEFORE_TEXTS:
        model.module.set_attn_implementation("eager")  # afterwards it stays as it is
    kind = TECHNIQUES.get(technique)
    kind(kind.Options(**options)).prepare(model)
    return model


def counted(model: Model, *, below: bool = False) -> int:
    """What PyTorch counts of one document, forward and backward, in the plain model.

    Args:
        below: let the gradient reach the embeddings' output, as if something below learnt.
    """
    module: Any = model.module
    if model.anatomy.family != "falcon":
        module.set_attn_implementation("eager")
    if below:
        module.enable_input_require_grads()
    ids = torch.randint(10, 200, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        hidden_TD = model.body(input_ids=ids)[0][0]
        if model.anatomy.output is None:
            outputs = pool_documents(model, hidden_TD, torch.tensor([0, LENGTH]))
        else:
            outputs = module.get_submodule(model.anatomy.output)(hidden_TD[TARGETS])
        outputs.sum().backward()
    return counter.get_total_flops()


def seeing_all(cost: Cost) -> Cost:
    """The plain model computes all scores and masks them; so that it can be compared."""
    return replace(cost, causal=False, pair={None: sum(cost.pair.values())})


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize(
    ("technique", "options"),
    [("full", {}), ("full", {"embeddings": False}), ("layers", {"last": 1}),
     ("layers", {"last": 1, "output": True})],
)  # fmt: skip
def test_flops_equal_those_that_pytorch_counts(
    family: str, technique: str, options: dict[str, Any]
) -> None:
    model = prepared(family, technique, **options)
    cost = training_cost(model.module, model.anatomy)
    assert seeing_all(cost).flops(WORK) == counted(model)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "gpt_neox"])
def test_flops_of_adapters_equal_those_that_pytorch_counts_where_gradients_reach_the_bottom(
    family: str,
) -> None:
    model = prepared(family, "lora", rank=4)
    cost = training_cost(model.module, model.anatomy)
    assert seeing_all(cost).flops(WORK) == counted(model, below=True)


def test_adapters_are_counted_with_the_gradient_of_the_first_layers_input() -> None:
    """The stated excess: q, k, v of the lowest layer do without the gradient of their input."""
    model = prepared("llama", "lora", rank=4)
    cost = training_cost(model.module, model.anatomy)
    first_factors = 3 * 4 * HIDDEN
    excess = LENGTH * 2 * (Q + 2 * KV + first_factors)
    assert seeing_all(cost).flops(WORK) - counted(model) == excess


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_flops_of_a_classifier_equal_those_that_pytorch_counts(family: str) -> None:
    model = prepared(family, "full", "classification")
    assert training_cost(model.module, model.anatomy).flops(WORK) == counted(model)


def test_full_training_by_hand() -> None:
    model = prepared("llama", "full")
    cost = training_cost(model.module, model.anatomy)
    vocabulary = HIDDEN * model.anatomy.vocab_size
    seen = LENGTH * (LENGTH + 1) // 2
    expected = (
        6 * LAYERS * LAYER * LENGTH
        + 6 * vocabulary * len(TARGETS)
        + 12 * LAYERS * HIDDEN * seen
    )  # fmt: skip
    assert cost.flops(WORK) == expected


def test_adapters_by_hand() -> None:
    model = prepared("llama", "lora", rank=4)
    cost = training_cost(model.module, model.anatomy)
    learnt = sum(p.numel() for p in model.module.parameters() if p.requires_grad)
    vocabulary = HIDDEN * model.anatomy.vocab_size
    assert cost.token == 4 * LAYERS * LAYER + 6 * learnt
    assert cost.target == 4 * vocabulary
    assert cost.pair == {None: 12.0 * LAYERS * HIDDEN}


def test_layers_below_the_lowest_that_learns_are_computed_forward_only() -> None:
    model = prepared("llama", "layers", last=1)
    cost = training_cost(model.module, model.anatomy)
    assert cost.token == 2 * LAYER + 6 * LAYER
    assert cost.pair == {None: (4.0 + 12.0) * HIDDEN}


def test_layers_whose_output_was_kept_cost_nothing() -> None:
    model = prepared("llama", "layers", last=1)
    cost = training_cost(model.module, model.anatomy, kept=1)
    assert cost.token == 6 * LAYER
    assert cost.pair == {None: 12.0 * HIDDEN}
    heads = cost.of_heads()
    assert (heads.token, heads.target, heads.pair) == (0.0, 0.0, {})


def test_a_frozen_layer_above_one_that_learns_passes_the_gradient_on() -> None:
    model = prepared("llama", "layers", layers=[0], final_norm=False)
    assert training_cost(model.module, model.anatomy).token == 6 * LAYER + 4 * LAYER


def test_a_frozen_model_costs_its_forward_pass() -> None:
    model = tiny_model("llama")
    freeze(model.module)
    cost = training_cost(model.module, model.anatomy)
    assert cost.token == 2 * LAYERS * LAYER
    assert cost.target == 2 * HIDDEN * model.anatomy.vocab_size
    assert cost.pair == {None: 4.0 * LAYERS * HIDDEN}


def test_a_head_is_counted_once_a_document() -> None:
    model = prepared("bert", "lora", "classification", rank=4)
    cost = training_cost(model.module, model.anatomy)
    pooler, classifier = HIDDEN * HIDDEN, 3 * HIDDEN
    assert cost.document == 6 * (pooler + classifier)
    one, two = (cost.flops(Work((10,) * documents)) for documents in (1, 2))
    assert two == 2 * one


@pytest.mark.parametrize(
    ("length", "causal", "window", "expected"),
    [(5, True, None, 15), (5, False, None, 25), (5, True, 2, 9), (5, False, 2, 13),
     (3, True, 8, 6), (3, False, 8, 9), (1, True, 1, 1)],
)  # fmt: skip
def test_pairs_are_those_that_a_query_may_see(
    length: int, causal: bool, window: int | None, expected: int
) -> None:
    reach = window or length
    seen = [
        (i, j)
        for i in range(length)
        for j in range(length)
        if abs(i - j) < reach and (j <= i or not causal)
    ]
    assert pairs(length, causal=causal, window=window) == len(seen) == expected


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 2, 4])
@pytest.mark.parametrize("first", [0, 1, 3, 7])
def test_queries_whose_rows_are_there_already_ask_nothing(
    causal: bool, window: int | None, first: int
) -> None:
    reach = window or 7
    seen = [
        (i, j)
        for i in range(first, 7)
        for j in range(7)
        if abs(i - j) < reach and (j <= i or not causal)
    ]
    assert pairs(7, causal=causal, window=window, first=first) == len(seen)


def test_a_beginning_that_is_computed_once_is_counted_once() -> None:
    model = prepared("llama", "full")
    engine = Engine(model)
    alike = [(4, 5, 6, 7, 8, 9), (4, 5, 6, 7, 3), (10, 11, 12), (4, 5, 6, 7, 8, 9)]
    batch = collate([Encoded({"text": EncodedStream(ids, (1.0,) * len(ids))}) for ids in alike])
    shared = Work.of(batch, engine.begun(batch))
    assert sum(shared.lengths) - sum(shared.begun) == engine.computed_rows(batch) == 10
    cost = replace(training_cost(model.module, model.anatomy), target=0.0)
    # Of 6 + 1 + 3 + 0 rows: each asks its own document's keys up to its own place.
    asked = 21 + 5 + 6
    assert cost.flops(shared) == cost.token * 10 + cost.pair[None] * asked
    assert cost.flops(shared) < cost.flops(Work.of(batch))
    apart = Engine(model, packing=False)
    assert apart.begun(batch) == ()


VIRTUAL = 4


@pytest.mark.parametrize("technique", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_virtual_tokens_are_counted_as_pytorch_counts_them(technique: str) -> None:
    model = prepared("llama", technique, length=VIRTUAL)
    cost = training_cost(model.module, model.anatomy, virtual=model.virtual)
    excess = 0  # as with adapters: nothing learns below the queries of the lowest layer
    if technique == "prefix_tuning":
        excess = LENGTH * 2 * (Q + 2 * KV + HIDDEN * (LENGTH + VIRTUAL))
    assert seeing_all(cost).flops(WORK) - excess == counted(model)


def test_documents_of_a_pack_do_not_see_each_other() -> None:
    cost = Cost(token=0, target=0, document=0, pair={None: 1.0}, causal=True)
    assert cost.flops(Work((3, 4))) == 6 + 10


def test_layers_with_a_sliding_window_are_counted_with_it() -> None:
    module = tiny_module("gemma3", layer_types=["sliding_attention", "full_attention"])
    freeze(module)
    cost = training_cost(module, study(module))
    assert cost.pair == {8: 4.0 * HEADS * 8, None: 4.0 * HEADS * 8}


def test_of_a_mixture_of_experts_those_count_that_a_token_is_sent_to() -> None:
    sizes = {"num_local_experts": 4, "num_experts_per_tok": 2}
    module: Any = tiny_module("mixtral", **sizes)
    freeze(module)
    router = 4 * HIDDEN
    expected = 2 * LAYERS * (2 * Q + 2 * KV + router + 2 * 3 * INNER)
    # The router is no linear map by type in every family: it may be counted or not.
    assert training_cost(module, study(module)).token in (expected, expected - 2 * LAYERS * router)


def test_shapes_are_enough() -> None:
    model = prepared("llama", "lora", rank=4)
    there = training_cost(model.module, model.anatomy)
    assert training_cost(model.module.to("meta"), model.anatomy) == there


def test_the_work_of_a_batch_is_its_tokens_and_what_is_learnt_of_them() -> None:
    examples = [
        Encoded({"text": EncodedStream((1, 2, 3, 4), (0.0, 0.0, 1.0, 1.0))}),
        Encoded({"text": EncodedStream((5, 6), (1.0, 0.5))}),
    ]
    assert Work.of(collate(examples)) == Work((4, 2), 3)
