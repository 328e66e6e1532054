"""The learning rate: equal to transformers' schedules, shifted so that no step has rate 0."""

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from tunesmith.training.schedule import learning_rate


def rates(shape, steps=40, warmup=0.25):
    return [
        learning_rate(s, steps=steps, peak=2.0, shape=shape, warmup=warmup) for s in range(steps)
    ]


@pytest.mark.parametrize(
    ("shape", "reference"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
def test_decay_equals_transformers(shape, reference):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = reference(optimizer, 10, 40)
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates(shape)[10:] == pytest.approx(expected[10:])


def test_warm_up_rises_linearly_and_starts_above_zero():
    assert rates("constant")[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])


def test_constant_stays_at_the_peak():
    assert set(rates("constant")[10:]) == {2.0}


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_no_step_has_a_rate_of_zero(shape):
    assert all(rate > 0 for rate in rates(shape, steps=1) + rates(shape) + rates(shape, warmup=0.0))
