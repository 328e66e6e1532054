"""Each retainer does what its formula says, held against one written by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tests.tiny import tiny_model
from torch.nn.functional import kl_div, log_softmax

from tunesmith.data.batch import NO_CLASS, Encoded, EncodedStream, collate
from tunesmith.engine.anchor import Anchor
from tunesmith.engine.engine import Engine
from tunesmith.models.seeded import seeded
from tunesmith.objectives.base import TokenStates
from tunesmith.objectives.masked_likelihood import MaskedLikelihood
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import RETAINERS, TECHNIQUES
from tunesmith.retain.base import Scene
from tunesmith.retain.interpolate import Interpolate, Point


def examples(count=4, first=10):
    rows = [tuple(range(first + i, first + 8 + 2 * i)) for i in range(count)]
    return [Encoded({"text": EncodedStream(ids, (0.0, 1.0) + (1.0,) * (len(ids) - 2))})
            for ids in rows]  # fmt: skip


def scene_of(technique="full", family="llama", head="causal_lm", labels=(), **options):
    model = tiny_model(family, head, labels)
    kind = TECHNIQUES.get(technique)
    method = kind(kind.Options(**options))
    with seeded(0):
        method.prepare(model)
    return Scene(Engine(model, method.parameter_groups(model)), TokenLikelihood()), method


def retainer(name, **options):
    kind = RETAINERS.get(name)
    return kind(kind.Options(**options))


def moved(scene, size=0.05):
    """Move what learns, as training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in scene.engine.optimizer.parameters.values():
            parameter += size * torch.randn(parameter.shape, generator=generator)


def gradients(scene):
    found = {n: p.grad for n, p in scene.engine.optimizer.parameters.items()}
    for parameter in scene.engine.optimizer.parameters.values():
        parameter.grad = None
    return found


def logits(scene, batch):
    stream = batch.text
    rows = []
    for start, end in zip(stream.cu_seqlens[:-1], stream.cu_seqlens[1:], strict=True):
        ids = stream.ids_T[start:end][None]
        rows.append(scene.engine.model.module(input_ids=ids).logits[0])
    return torch.cat(rows)[stream.weights_T != 0]


@pytest.mark.parametrize("technique", ["full", "lora"])
def test_kl_equals_the_formula_on_all_logits(technique):
    scene, _ = scene_of(technique)
    member = retainer("kl", weight=0.3, temperature=2.0)
    member.begin(scene)
    scene.objective.further = (member.further(),)
    batch = collate(examples())
    with torch.no_grad():
        base = log_softmax(logits(scene, batch) / 2.0, -1)
    moved(scene)
    counts = scene.objective.all_counts(batch)
    shares, _ = scene.engine.forward_backward(batch, scene.objective, counts)
    ours = gradients(scene)

    scene.engine.model.module.train()
    now = logits(scene, batch)
    targets = batch.text.targets_T[batch.text.weights_T != 0]
    nll = torch.nn.functional.cross_entropy(now, targets)
    kl = kl_div(log_softmax(now / 2.0, -1), base, log_target=True, reduction="sum") / len(targets)
    (nll + 0.3 * kl).backward()
    theirs = gradients(scene)
    assert shares["nll"] == pytest.approx(float(nll.detach()), rel=1e-4)
    assert shares["kl_to_base"] == pytest.approx(0.3 * float(kl.detach()), rel=1e-3)
    for name, found in ours.items():
        torch.testing.assert_close(found, theirs[name], rtol=2e-3, atol=2e-5)


def hidden_words(count=4):
    rows = [tuple(range(10 + i, 18 + 2 * i)) for i in range(count)]
    return [
        Encoded({"text": EncodedStream(
            (4, 1, *ids[1:], 5), classes=(NO_CLASS, ids[0], *[NO_CLASS] * len(ids))
        )})
        for ids in rows
    ]  # fmt: skip


def test_kl_holds_what_is_said_of_hidden_words_to_what_the_base_says():
    scene, _ = scene_of("full", "bert", "masked_lm")
    scene = Scene(scene.engine, MaskedLikelihood())
    member = retainer("kl", weight=0.3)
    assert member.refuses(scene) is None
    member.begin(scene)
    scene.objective.further = (member.further(),)
    batch = collate(hidden_words())
    rows = batch.text.learnt()[0]

    def said():
        starts = batch.text.cu_seqlens.tolist()
        ids = [batch.text.ids_T[a:b][None] for a, b in pairwise(starts)]
        return torch.cat([scene.engine.model.module(input_ids=one).logits[0] for one in ids])[rows]

    with torch.no_grad():
        base = log_softmax(said(), -1)
    moved(scene)
    counts = scene.objective.all_counts(batch)
    assert counts["kl_to_base"] == len(rows) == 4
    shares, _ = scene.engine.forward_backward(batch, scene.objective, counts)
    with torch.no_grad():
        kl = kl_div(log_softmax(said(), -1), base, log_target=True, reduction="sum") / 4
    assert shares["kl_to_base"] == pytest.approx(0.3 * float(kl), rel=1e-3)


def test_kl_leaves_what_learns_as_it_is():
    scene, _ = scene_of("full")
    member = retainer("kl")
    member.begin(scene)
    moved(scene)
    before = scene.engine.digest()
    member.further().before(collate(examples()))
    assert scene.engine.digest() == before


def test_kl_switches_an_adapter_off_that_does_not_begin_as_its_base():
    scene, _ = scene_of("prompt_tuning", length=2)
    scene = Scene(scene.engine, scene.objective, begins_as_base=False)
    member = retainer("kl")
    member.begin(scene)
    batch = collate(examples())
    plain = Engine(tiny_model("llama", "causal_lm"))
    found = member.further().before(batch)
    torch.testing.assert_close(
        found.hidden_ND, plain.forward(batch, TokenStates).output.hidden_ND, rtol=1e-4, atol=1e-5
    )


def test_l2_sp_equals_the_formula():
    scene, _ = scene_of("full")
    member = retainer("l2_sp", strength=0.7)
    member.begin(scene)
    start = {n: p.detach().clone() for n, p in scene.engine.optimizer.parameters.items()}
    moved(scene)
    value = member.penalise()["l2_sp"]
    ours, learns = gradients(scene), scene.engine.optimizer.parameters
    penalty = sum(0.35 * (p - start[n]).square().sum() for n, p in learns.items())
    penalty.backward()
    assert value == pytest.approx(float(penalty.detach()), rel=1e-4)
    for name, expected in gradients(scene).items():
        torch.testing.assert_close(ours[name], expected)


@pytest.mark.parametrize("initial", ["zero", "pissa"])
def test_l2_sp_of_low_rank_adapters_is_the_distance_of_the_weights(initial):
    scene, _ = scene_of("lora", rank=3, alpha=12.0, initial=initial)
    member = retainer("l2_sp", strength=0.7)
    member.begin(scene)
    learns = scene.engine.optimizer.parameters
    start = {n: p.detach().clone() for n, p in learns.items()}
    moved(scene)
    value = member.penalise()["l2_sp"]
    ours = gradients(scene)
    penalty = 0.0
    for name, a in learns.items():
        if ".lora_A." in name:
            below = name.replace(".lora_A.", ".lora_B.")
            change = 4.0 * (learns[below] @ a - start[below] @ start[name])
            penalty = penalty + 0.35 * change.square().sum()
    penalty.backward()
    assert value == pytest.approx(float(penalty.detach()), rel=1e-3)
    for name, expected in gradients(scene).items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-4)


def test_l2_sp_pulls_a_new_head_to_zero_and_not_to_its_random_start():
    scene, _ = scene_of("full", "bert", "classification", ("a", "b"))
    member = retainer("l2_sp", strength=0.1, new=0.5)
    member.begin(scene)
    member.penalise()
    found = gradients(scene)
    head = scene.engine.optimizer.parameters["classifier.weight"]
    torch.testing.assert_close(found["classifier.weight"], 0.5 * head.detach())
    body = next(name for name in found if "query.weight" in name)
    assert not found[body].any()


def test_ewc_equals_the_formula():
    scene, _ = scene_of("full")
    old = examples(3, first=40)
    member = retainer("ewc", strength=2.0)
    member.begin(scene)
    member.load(member.examine(scene, old))

    module, learns = scene.engine.model.module, scene.engine.optimizer.parameters
    fisher, tokens = {n: torch.zeros_like(p) for n, p in learns.items()}, 0
    module.train()
    for example in old:
        batch = collate([example])
        targets = batch.text.targets_T[batch.text.weights_T != 0]
        torch.nn.functional.cross_entropy(logits(scene, batch), targets, reduction="sum").backward()
        tokens += len(targets)
        for name, gradient in gradients(scene).items():
            fisher[name] += gradient.square()
    start = {n: p.detach().clone() for n, p in learns.items()}
    moved(scene)
    value = member.penalise()["ewc"]
    ours = gradients(scene)
    penalty = sum((fisher[n] / tokens * (p - start[n]).square()).sum() for n, p in learns.items())
    penalty.backward()
    assert value == pytest.approx(float(penalty.detach()), rel=1e-3)
    for name, expected in gradients(scene).items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-4)


def test_ewc_leaves_no_gradient_and_moves_nothing():
    scene, _ = scene_of("full")
    before = scene.engine.digest()
    member = retainer("ewc")
    member.begin(scene)
    member.examine(scene, examples())
    assert scene.engine.digest() == before
    assert all(p.grad is None for p in scene.engine.optimizer.parameters.values())


@pytest.mark.parametrize(("technique", "options"), [
    ("full", {}), ("lora", {"rank": 3}), ("lora", {"initial": "pissa", "rank": 3}),
    ("lora", {"dora": True, "rank": 3}), ("ia3", {}), ("oft", {"block_size": 4}),
    ("vera", {"rank": 4}),
])  # fmt: skip
def test_the_ends_of_the_way_are_the_models_before_and_after(technique, options):
    scene, method = scene_of(technique, **options)
    member = retainer("interpolate")
    member.begin(scene)
    batch = collate(examples())
    with torch.no_grad():
        before = logits(scene, batch)
        moved(scene)
        after = logits(scene, batch)
        learnt = member.learnt()
        member.put(scene.engine, method, learnt, 0.0)
        torch.testing.assert_close(logits(scene, batch), before, rtol=1e-4, atol=1e-5)
        member.put(scene.engine, method, learnt, 1.0)
        torch.testing.assert_close(logits(scene, batch), after, rtol=1e-4, atol=1e-5)


def test_half_way_the_weights_of_a_low_rank_adapter_are_changed_by_half():
    scene, method = scene_of("lora", rank=3)
    member = retainer("interpolate")
    member.begin(scene)
    moved(scene)
    layer = scene.engine.model.module.model.layers[0].self_attn.q_proj
    whole = layer.get_delta_weight("default").detach().clone()
    member.put(scene.engine, method, member.learnt(), 0.5)
    torch.testing.assert_close(layer.get_delta_weight("default").detach(), whole / 2)


def test_a_new_head_stays_as_it_was_learnt():
    scene, method = scene_of("full", "bert", "classification", ("a", "b"))
    member = retainer("interpolate")
    member.begin(scene)
    moved(scene)
    head = scene.engine.optimizer.parameters["classifier.weight"]
    learnt = head.detach().clone()
    member.put(scene.engine, method, member.learnt(), 0.2)
    assert torch.equal(head, learnt)


@pytest.mark.parametrize(("keep", "figures", "chosen"), [
    (0.9, (1.0, 1.5, 1.95, 2.0), 0.5),
    (1.0, (1.0, 1.5, 1.95, 2.0), 1.0),
    (0.4, (1.0, 1.5, 1.95, 2.0), 0.2),
    (0.9, (1.0, 0.5, 0.8, 0.3), 0.5),
])  # fmt: skip
def test_the_nearest_point_that_keeps_the_gain_is_chosen(keep, figures, chosen):
    points = [Point(share=share, validation=value)
              for share, value in zip((0.0, 0.2, 0.5, 1.0), figures, strict=True)]  # fmt: skip
    member = Interpolate(Interpolate.Options(keep=keep))
    assert member.choose(points, higher_is_better=True) == chosen
    turned = [Point(share=p.share, validation=-p.validation) for p in points]
    assert member.choose(turned, higher_is_better=False) == chosen


def test_replay_draws_as_many_as_make_up_its_share():
    member = retainer("replay", share=0.25)
    old = examples(10)
    chosen = member.choose(12, old, seed=0)
    assert len(chosen) == 4
    assert all(any(example is each for each in old) for example in chosen)
    assert member.choose(12, old, seed=0) == chosen
    assert len(member.choose(400, old, seed=0)) == 10


def test_an_anchor_puts_the_first_values_in_place_for_a_while():
    scene, _ = scene_of("layers", last=1)
    anchor = Anchor(scene.engine.optimizer.parameters)
    before = scene.engine.digest()
    moved(scene)
    after = scene.engine.digest()
    with anchor.in_place():
        assert scene.engine.digest() == before
    assert scene.engine.digest() == after
    assert anchor.nbytes == sum(p.nbytes for p in scene.engine.optimizer.parameters.values())


@pytest.mark.parametrize(("name", "reason"), [
    ("kl", "says nothing of them"), ("ewc", "with a new head"), ("replay", "writes no text"),
])  # fmt: skip
def test_what_cannot_be_held_on_to_with_a_new_head_is_refused(name, reason):
    scene, _ = scene_of("full", "bert", "classification", ("a", "b"))
    assert reason in retainer(name).refuses(scene)


@pytest.mark.parametrize("name", ["l2_sp", "ewc"])
def test_penalties_are_refused_where_weights_move_within_the_backward_pass(name):
    scene, _ = scene_of("full")
    scene = Scene(scene.engine, scene.objective, in_backward=True)
    assert "optimizer_in_backward" in retainer(name).refuses(scene)
