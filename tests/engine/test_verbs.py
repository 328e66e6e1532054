"""The verbs beside the gradients: state, adapters, modes, evaluation batches."""

import torch
from tests.tiny import tiny_model

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.batching import batches
from tunesmith.engine.engine import Engine
from tunesmith.engine.optimizer import AdamWOptions
from tunesmith.models.seeded import seeded
from tunesmith.objectives.base import Hidden, TokenLogProbs
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import TECHNIQUES


def examples(count=6):
    rows = [tuple(range(10 + i, 18 + 2 * i)) for i in range(count)]
    return [Encoded({"text": EncodedStream(ids, (1.0,) * len(ids))}) for ids in rows]


def lora_engine(dropout=0.0, seed=0, **options):
    model = tiny_model("llama", head="causal_lm")
    kind = TECHNIQUES.get("lora")
    technique = kind(kind.Options(rank=4, dropout=dropout))
    with seeded(seed):
        technique.prepare(model)
    return Engine(model, technique.parameter_groups(model), **options)


def step(engine, seed=0, rate=1e-2):
    batch, objective = collate(examples()), TokenLikelihood()
    with seeded(seed):
        engine.forward_backward(batch, objective, objective.counts(batch))
    return engine.optimizer_step(rate)


def test_a_state_taken_up_again_goes_on_bit_for_bit():
    whole = lora_engine(dropout=0.2)
    for number in range(6):
        step(whole, seed=number)
    first = lora_engine(dropout=0.2)
    for number in range(3):
        step(first, seed=number)
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    second = lora_engine(dropout=0.2, seed=9)
    second.load_state_dict(state)
    for number in range(3, 6):
        step(second, seed=number)
    assert second.digest() == whole.digest()


def test_the_optimizer_equals_torch_adamw():
    engine = lora_engine(optimizer=AdamWOptions(weight_decay=0.1, max_grad_norm=0.5))
    learns = engine.optimizer.parameters
    copies = {n: p.detach().clone().requires_grad_() for n, p in learns.items()}
    reference = torch.optim.AdamW(copies.values(), lr=1e-2, weight_decay=0.1)
    for number in range(3):
        batch, objective = collate(examples()), TokenLikelihood()
        engine.forward_backward(batch, objective, objective.counts(batch))
        for name, parameter in engine.optimizer.parameters.items():
            copies[name].grad = parameter.grad.clone()
        expected_norm = torch.nn.utils.clip_grad_norm_(copies.values(), 0.5)
        assert engine.optimizer_step(1e-2) == float(expected_norm), number
        reference.step()
    for name, parameter in engine.optimizer.parameters.items():
        torch.testing.assert_close(parameter.detach(), copies[name].detach())


def test_an_adapter_switched_off_answers_as_the_base():
    engine = lora_engine()
    batch = collate(examples())
    before = engine.forward(batch, TokenLogProbs).logprobs_N
    step(engine)
    after = engine.forward(batch, TokenLogProbs).logprobs_N
    off = engine.forward(batch, TokenLogProbs, adapter="off").logprobs_N
    assert not torch.equal(after, before)
    torch.testing.assert_close(off, before)


def test_evaluation_has_no_dropout_and_training_has():
    engine = lora_engine(dropout=0.5)
    step(engine)
    batch, objective = collate(examples()), TokenLikelihood()
    counts = objective.counts(batch)
    first, second = (engine.forward(batch, Hidden).hidden_TD for _ in range(2))
    assert torch.equal(first, second)
    losses = set()
    for seed in (1, 2):
        with seeded(seed):
            losses.add(engine.forward_backward(batch, objective, counts)[0]["nll"])
    assert len(losses) == 2


def test_what_lies_below_the_first_learning_layer_is_not_dropped_out():
    model = tiny_model("bert", head="classification", labels=("a", "b"))
    for module in model.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    kind = TECHNIQUES.get("layers")
    technique = kind(kind.Options(last=1))
    technique.prepare(model)
    engine = Engine(model, technique.parameter_groups(model))
    with engine._mode(training=True):
        frozen = model.module.get_submodule(model.anatomy.layers[0].name)
        learning = model.module.get_submodule(model.anatomy.layers[1].name)
        assert not any(module.training for module in frozen.modules())
        assert all(module.training for module in learning.modules())


def test_evaluation_batches_hold_every_example_once_within_the_budget():
    rows = examples(20)
    for packed in (True, False):
        found = list(batches(rows, 60, packed))
        assert sorted(i for batch in found for i in batch.indices) == list(range(20))
        for batch in found:
            longest = max(batch.text.lengths)
            cost = batch.tokens if packed else longest * len(batch)
            assert cost <= 60
        assert found[0].text.lengths[0] == max(e.length for e in rows)


def test_the_same_log_probabilities_in_any_batching():
    engine = lora_engine()
    rows = examples()

    def scores(budget, packed):
        found = {}
        for batch in batches(rows, budget, packed):
            readout = engine.forward(batch, TokenLogProbs)
            parts = readout.logprobs_N.split([n - 1 for n in batch.text.lengths])
            found |= dict(zip(batch.indices, parts, strict=True))
        return [found[i] for i in range(len(rows))]

    for one, other in zip(scores(1000, True), scores(1, True), strict=True):
        torch.testing.assert_close(one, other)
