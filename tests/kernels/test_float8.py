"""Products of factors of 8 bits: what is rounded, by how much, and what is not."""

from __future__ import annotations

import pytest
import torch

from tunesmith.kernels.float8 import GRADIENTS, VALUES, float8_linear, rounded


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def as_rounded(x: torch.Tensor, dtype: torch.dtype = VALUES) -> torch.Tensor:
    """The numbers that a factor stands for."""
    factor, scale = rounded(x, dtype)
    return factor.float() * scale


def apart(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize("tokens", [32, 37])  # the second is no multiple of what devices multiply
def test_output_and_gradients_are_products_of_the_rounded_factors(tokens: int) -> None:
    x, weight, bias = drawn(tokens, 48), drawn(64, 48, seed=1), drawn(64, seed=2)
    grad = drawn(tokens, 64, seed=3)
    learnt = [part.requires_grad_() for part in (x, weight, bias)]
    y = float8_linear(*learnt, torch.float32)
    y.backward(grad)
    with torch.no_grad():
        x8, weight8, grad8 = as_rounded(x), as_rounded(weight), as_rounded(grad, GRADIENTS)
        expected = (x8 @ weight8.T + bias, grad8 @ weight8, grad8.T @ x8, grad.sum(0))
    for found, right in zip((y, x.grad, weight.grad, bias.grad), expected, strict=True):
        assert found is not None
        assert apart(found.detach(), right) < 1e-5


def test_the_error_is_that_of_the_formats() -> None:
    x, weight = drawn(256, 128), drawn(96, 128, seed=1).requires_grad_()
    y = float8_linear(x.bfloat16(), weight, None, torch.bfloat16)
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    assert 0.005 < apart(y.detach(), x @ weight.detach().T) < 0.05
    assert apart(weight.grad, torch.ones(256, 96).T @ x) < 0.05


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_what_is_tiny_or_huge_is_scaled_first(size: float) -> None:
    x = size * drawn(16, 16)
    assert apart(as_rounded(x), x) < 0.04
    assert as_rounded(x).abs().max() == pytest.approx(float(x.abs().max()), rel=1e-3)


def test_zeros_stay_zeros_and_what_is_not_finite_stays_so() -> None:
    assert not as_rounded(torch.zeros(16, 16)).any()
    for odd in (float("nan"), float("inf")):
        x = drawn(16, 16)
        x[3, 3] = odd
        assert not as_rounded(x)[3, 3].isfinite()


def test_a_size_that_devices_do_not_multiply_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        float8_linear(drawn(4, 24), drawn(32, 24), None, torch.float32)
