"""A mixture takes of each task what its share asks for, and follows from the step's number."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.data.batch import Encoded, EncodedStream
from tunesmith.data.mixed_plan import Mixed, MixedPlan
from tunesmith.data.mixture import Portion, apportion, shares, weights
from tunesmith.data.plan import Plan


def test_weights_follow_the_sizes_their_root_or_what_is_stated():
    assert weights([900, 100], "proportion", 2.0, [1, 1]) == [900, 100]
    assert weights([900, 100], "temperature", 2.0, [1, 1]) == [30, 10]
    assert weights([900, 100], "weights", 2.0, [3, 1]) == [3, 1]


def test_a_later_task_grows_along_its_ramp():
    portions = [Portion(1.0), Portion(1.0, begin=0.5, ramp=0.2)]
    assert shares(portions, 0.49, 0.0) == [1.0, 0.0]
    assert shares(portions, 0.6, 0.0) == pytest.approx([2 / 3, 1 / 3])
    assert shares(portions, 0.7, 0.0) == pytest.approx([0.5, 0.5])


def test_what_came_in_earlier_keeps_its_least_share_together():
    portions = [Portion(1.0), Portion(3.0), Portion(96.0, begin=0.5)]
    assert shares(portions, 0.2, 0.3) == pytest.approx([0.25, 0.75, 0.0])
    assert shares(portions, 0.9, 0.3) == pytest.approx([0.075, 0.225, 0.7])
    assert shares(portions, 0.9, 0.0) == pytest.approx([0.01, 0.03, 0.96])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=5),
    st.integers(1, 9),
    st.integers(1, 60),
)
def test_every_step_is_whole_and_no_task_falls_a_record_behind_for_long(given_weights, size, steps):
    portions = tuple(Portion(weight) for weight in given_weights)
    taken = apportion(portions, steps, size, 0.0)
    assert (taken >= 0).all()
    assert (taken.sum(1) == size).all()
    wanted = np.outer(np.arange(1, steps + 1), shares(portions, 0.0, 0.0)) * size
    assert np.abs(taken.cumsum(0) - wanted).max() < len(given_weights)


def test_a_task_that_has_not_begun_takes_nothing():
    taken = apportion((Portion(1.0), Portion(5.0, begin=0.5)), 10, 3, 0.0)
    assert taken[:5, 1].sum() == 0
    assert taken[5:, 1].sum() > taken[5:, 0].sum()


def example(length: int) -> Encoded:
    return Encoded({"text": EncodedStream(tuple(range(length)), (1.0,) * length)})


def count(batch):
    return {f"{batch.member}/nll": float(batch.text.weights_T.sum())}


def mixed(sizes, **options):
    examples = [example(3 + i % 5) for i in range(sum(sizes))]
    starts = np.cumsum([0, *sizes])
    members = {
        f"m{i}": Mixed(Portion(size), range(starts[i], starts[i + 1]))
        for i, size in enumerate(sizes)
    }
    options = {"batch_size": 6, "tokens_per_batch": 16, "replay": 0.0} | options
    return MixedPlan(examples, members, count, **options)


def test_each_micro_batch_is_of_one_task_and_knows_its_share_of_the_step():
    plan = mixed([20, 10, 5], max_steps=12)
    for step in plan:
        of = dict.fromkeys(plan.members, 0)
        for batch in step:
            places = plan.members[batch.member].places
            assert set(batch.indices) <= set(places)
            of[batch.member] += len(batch)
        assert sum(of.values()) == 6
        assert all(batch.share == of[batch.member] / 6 for batch in step)
        assert set(step.counts) == {f"{name}/nll" for name, number in of.items() if number}


def test_every_record_of_a_task_is_seen_before_any_is_seen_again():
    plan = mixed([20, 4], max_steps=24)
    seen = [i for step in plan for batch in step for i in batch.indices if batch.member == "m1"]
    assert len(seen) == 24
    for start in range(0, 24, 4):
        assert set(seen[start : start + 4]) == {20, 21, 22, 23}


def test_steps_asked_for_in_any_order_are_the_same():
    plan, again = mixed([20, 7], max_steps=9, seed=3), mixed([20, 7], max_steps=9, seed=3)
    forwards = [plan.indices(step) for step in range(9)]
    backwards = [again.indices(step) for step in reversed(range(9))]
    assert forwards == backwards[::-1]
    assert forwards != [mixed([20, 7], max_steps=9, seed=4).indices(step) for step in range(9)]


def test_an_epoch_of_one_task_alone_is_that_of_a_plain_plan():
    plain = Plan(
        [example(3 + i % 5) for i in range(24)], count, batch_size=6, tokens_per_batch=16, seed=5
    )
    plan = mixed([24], seed=5)
    assert len(plan) == len(plain)
    assert [plan.indices(step) for step in range(4)] == [plain.indices(step) for step in range(4)]
    assert [plan.passes(step) for step in range(4)] == [plain.passes(step) for step in range(4)]
