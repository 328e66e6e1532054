"""Dropout: the rate that was asked for, the same places backward as forward, nothing stored."""

import pytest
import torch

from tunesmith.kernels import native
from tunesmith.kernels.dropout import Dropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_weights_of_attention_are_dropped_at_the_rate_that_was_asked_for(
    probability: float,
) -> None:
    torch.manual_seed(0)
    drawn = [Dropout.drawn(probability) for _ in range(2)]
    kept = [d.keeps_weights(torch.arange(300), torch.arange(300), 8).float() for d in drawn]
    spread = (probability * (1 - probability)) ** 0.5
    for dims, count in (((0, 1, 2), 8 * 9e4), ((1, 2), 9e4), ((0, 1), 2400), ((0, 2), 2400)):
        off = (kept[0].mean(dims) - (1 - probability)).abs().max()
        assert off < 5 * spread / count**0.5
    one = kept[0]
    neighbours = [(one, kept[1]), (one[1:], one[:-1]), (one[:, 1:], one[:, :-1])]
    neighbours.append((one[..., 1:], one[..., :-1]))
    for pair in neighbours:  # draws, heads, queries, keys know nothing of each other
        assert abs(float(torch.corrcoef(torch.stack([p.ravel() for p in pair]))[0, 1])) < 0.006


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_elements_are_dropped_at_the_rate_that_was_asked_for(probability: float) -> None:
    torch.manual_seed(1)
    one, other = (dropout(torch.ones(600, 500), probability) for _ in range(2))
    assert one.unique().tolist() == pytest.approx([0.0, 1 / (1 - probability)])
    spread = (probability * (1 - probability)) ** 0.5
    assert abs(float((one > 0).float().mean()) - (1 - probability)) < 5 * spread / 3e5**0.5
    assert ((one > 0).float().mean(0) - (1 - probability)).abs().max() < 5 * spread / 600**0.5
    for a, b in ((one, other), (one[1:], one[:-1]), (one[:, 1:], one[:, :-1])):
        assert abs(float(torch.corrcoef(torch.stack([a.ravel(), b.ravel()]))[0, 1])) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_forms_drop_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.native().library is not None
    x = torch.randn(7, 33, dtype=dtype)
    drawn = Dropout.drawn(0.3)
    compiled = drawn.applied(x)
    monkeypatch.setattr(native, "usable", lambda *tensors: False)
    torch.testing.assert_close(compiled, drawn.applied(x).to(dtype))


def test_the_gradient_is_dropped_where_the_input_was() -> None:
    x = torch.randn(40, 30, requires_grad=True)
    y = dropout(x, 0.4)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (y != 0) / 0.6)


def test_it_draws_from_the_global_generator_and_nothing_where_nothing_is_dropped() -> None:
    x = torch.randn(50)
    torch.manual_seed(3)
    first = dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), first)
    state = torch.get_rng_state()
    assert dropout(x, 0.0) is x
    assert torch.equal(torch.get_rng_state(), state)
