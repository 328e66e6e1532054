"""Norm, gated activation and rotary positions equal the formulas, compiled and plain."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.kernels import native
from tunesmith.kernels.norms import rms_norm
from tunesmith.kernels.rotary import rotate_
from tunesmith.kernels.swiglu import swiglu

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def distance(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-3))


@pytest.fixture(params=["compiled", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both paths: the compiled kernels (where this machine can build them) and PyTorch's own."""
    if request.param == "plain":
        monkeypatch.setattr(native, "usable", lambda *tensors: False)
    return str(request.param)


def norm_formula(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
    return weight * normal.to(x.dtype)


def swiglu_formula(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def outcome(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    y = function(*leaves)
    slope = torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype)
    return [y, *torch.autograd.grad((y * slope).sum(), leaves)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(1, 7, 33), (5, 8), (3, 2)])
def test_rms_norm_equals_the_formula(path: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(shape[-1], dtype=dtype)
    ours = outcome(lambda x, w: rms_norm(x, w, 1e-5), x, weight)
    exact = outcome(norm_formula, x.double(), weight.double())
    for one, other in zip(ours, exact, strict=True):
        assert distance(one, other) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(2, 7, 34), (5, 2)])
def test_swiglu_equals_the_formula(path: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = 4 * torch.randn(shape, dtype=dtype)
    for one, other in zip(outcome(swiglu, x), outcome(swiglu_formula, x.double()), strict=True):
        assert distance(one, other) <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("ours", "formula"),
    [(swiglu, swiglu_formula), (lambda x: rms_norm(x, x.new_ones(64), 1e-5),
                                lambda x: norm_formula(x, x.new_ones(64)))],
)  # fmt: skip
def test_bfloat16_is_no_worse_than_plain_bfloat16(
    path: str, ours: Callable[..., Tensor], formula: Callable[..., Tensor]
) -> None:
    x = torch.randn(50, 64).bfloat16()
    exact, plain = outcome(formula, x.double()), outcome(formula, x)
    for one, other, reference in zip(outcome(ours, x), plain, exact, strict=True):
        assert distance(one, reference) <= 1.1 * distance(other, reference)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    heads=st.integers(1, 4),
    more=st.integers(0, 3),
    half=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_rotation_equals_the_formula_and_its_transpose(
    rows: int, heads: int, more: int, half: int, dtype: torch.dtype
) -> None:
    size = 2 * half
    x = torch.randn(rows, (heads + more) * size, dtype=dtype)
    cos, sin = torch.randn(rows, size), torch.randn(rows, size)

    def formula(x: Tensor) -> Tensor:
        parts = x.view(rows, heads + more, size)
        first, second = parts[:, :heads].chunk(2, -1)
        turned = torch.cat([-second, first], -1)
        rotated = parts[:, :heads] * cos[:, None] + turned * sin[:, None]
        return torch.cat([rotated, parts[:, heads:]], 1).flatten(1)

    expected, gradient = outcome(formula, x.double())
    slope = torch.linspace(-1, 1, x.numel()).view_as(x).to(dtype)
    rotate_(x, cos, sin, heads)
    rotate_(slope, cos, sin, heads, backward=True)
    assert distance(x, expected) <= 1e-6
    assert distance(slope, gradient) <= 1e-6


def test_plain_rotation_equals_the_compiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, cos, sin = torch.randn(6, 24), torch.randn(6, 4), torch.randn(6, 4)
    results = []
    for _ in range(2):
        for backward in (False, True):
            rotated = x.clone()
            rotate_(rotated, cos, sin, 4, backward=backward)
            results.append(rotated)
        monkeypatch.setattr(native, "usable", lambda *tensors: False)
    assert torch.allclose(results[0], results[2], atol=1e-6)
    assert torch.allclose(results[1], results[3], atol=1e-6)


def test_large_and_small_gates_stay_finite(path: str) -> None:
    gate = torch.tensor([[-1e4, 1e4, -90.0, 90.0, 0.0]])
    outputs = outcome(swiglu, torch.cat([gate, torch.ones_like(gate)], -1))
    assert all(t.isfinite().all() for t in outputs)
    assert torch.allclose(outputs[0], torch.tensor([[0.0, 1e4, 0.0, 90.0, 0.0]]))


def test_a_value_that_is_not_a_number_stays_visible(path: str) -> None:
    x = torch.randn(3, 8)
    x[1, 2] = torch.nan
    assert rms_norm(x, torch.ones(8), 1e-5)[1].isnan().all()
    assert swiglu(x)[1, 2].isnan()
