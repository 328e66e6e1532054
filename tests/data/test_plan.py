"""The plan: what is seen when is a function of the seed and the step, and nothing is lost."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.data.plan import Plan, pack


def example(length: int) -> Encoded:
    return Encoded({"text": EncodedStream(tuple(range(length)), (1.0,) * length)})


def count(batch):
    return {"nll": float(batch.text.weights_T.sum())}


def plan(lengths, **options):
    options = {"batch_size": 4, "tokens_per_batch": 64} | options
    return Plan([example(n) for n in lengths], count, **options)


lengths = st.lists(st.integers(2, 40), min_size=1, max_size=30)


@given(lengths)
def test_every_example_is_seen_once_an_epoch(lengths):
    steps = plan(lengths)
    seen = Counter(i for step in steps for batch in step for i in batch.indices)
    assert seen == Counter(range(len(lengths)))


@given(lengths, st.integers(2, 80))
def test_packs_hold_the_budget_unless_one_example_exceeds_it(lengths, budget):
    packs = pack(range(len(lengths)), lengths, budget)
    assert sorted(i for p in packs for i in p) == list(range(len(lengths)))
    assert all(len(p) == 1 or sum(lengths[i] for i in p) <= budget for p in packs)


@given(lengths, st.integers(0, 100))
def test_a_step_can_be_had_without_those_before_it(lengths, seed):
    whole = list(plan(lengths, seed=seed, epochs=2))
    alone = plan(lengths, seed=seed, epochs=2)[len(whole) - 1]
    assert [b.indices for b in alone] == [b.indices for b in whole[-1]]


def test_another_epoch_has_another_order():
    steps = plan([3] * 40, epochs=2)
    assert steps.indices(0) != steps.indices(10)


def test_another_seed_has_another_order():
    assert plan([3] * 40).indices(0) != plan([3] * 40, seed=1).indices(0)


@given(lengths, st.integers(2, 80))
def test_counts_of_a_step_do_not_depend_on_the_budget(lengths, budget):
    wide, narrow = plan(lengths, tokens_per_batch=10_000), plan(lengths, tokens_per_batch=budget)
    assert [step.counts for step in wide] == [step.counts for step in narrow]


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 3), (0.5, 2), (2.5, 8)])
def test_a_fraction_of_an_epoch_is_rounded_up_to_whole_steps(epochs, steps):
    assert len(plan([5] * 10, epochs=epochs)) == steps


def test_max_steps_takes_the_place_of_epochs():
    assert len(plan([5] * 10, epochs=None, max_steps=7)) == 7


def test_targets_are_shifted_once_and_documents_do_not_predict_each_other():
    batch = collate([example(3), example(2)])
    assert batch.text.targets_T.tolist()[:2] == [1, 2]
    assert batch.text.weights_T.tolist() == [1, 1, 0, 1, 0]
    assert batch.text.positions_T.tolist() == [0, 1, 2, 0, 1]
    assert batch.text.cu_seqlens.tolist() == [0, 3, 5]


def test_the_first_token_is_never_learnt():
    assert example(4).streams["text"].trained() == 3
