"""The LoRA products equal PEFT's own layer, forward and backward."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tests.dropping import stock_modules_drop_alike
from torch import Tensor, nn

from tunesmith.kernels.lora import LowRank, lora_linear, lora_product


@pytest.fixture(autouse=True, scope="module")
def _alike() -> Iterator[None]:
    with stock_modules_drop_alike():
        yield


class Three(nn.Module):
    """Three layers of one input, as query, key and value are."""

    def __init__(self, inputs: int, outputs: tuple[int, ...], bias: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, size, bias=bias) for size in outputs])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], -1)


def peft_three(
    inputs: int, outputs: tuple[int, ...], rank: int, bias: bool, dropout: float, dtype: torch.dtype
) -> nn.Module:
    torch.manual_seed(0)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=dropout,
        target_modules=[f"layers.{i}" for i in range(len(outputs))],
        init_lora_weights=False,
    )
    return get_peft_model(Three(inputs, outputs, bias), config).to(dtype).train()


def fused(model: nn.Module, x: Tensor, dropout: float, gate_up: bool = False) -> Tensor:
    layers = list(model.base_model.model.layers)
    adapters = [
        LowRank(
            layer.lora_A["default"].weight,
            layer.lora_B["default"].weight,
            layer.scaling["default"],
            dropout,
        )
        for layer in layers
    ]
    weights = torch.cat([layer.base_layer.weight for layer in layers])
    has_bias = layers[0].base_layer.bias is not None
    bias = torch.cat([layer.base_layer.bias for layer in layers]) if has_bias else None
    sizes = [layer.base_layer.out_features for layer in layers]
    return lora_product(x, weights, bias, adapters, sizes, gate_up=gate_up)


def run(model: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Tensor]:
    model = copy.deepcopy(model)
    x = x.clone().requires_grad_()
    torch.manual_seed(7)
    y = forward(model, x)  # type: ignore[call-arg]
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **gradients}


def distance(a: Tensor, b: Tensor) -> float:
    return float(
        (a.double() - b.double()).detach().norm() / b.double().detach().norm().clamp_min(1e-3)
    )


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 9),
    inputs=st.integers(1, 12),
    outputs=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    rank=st.integers(1, 5),
    bias=st.booleans(),
    dropout=st.sampled_from([0.0, 0.3]),
)
def test_products_and_gradients_equal_peft_in_float64(
    tokens: int, inputs: int, outputs: tuple[int, ...], rank: int, bias: bool, dropout: float
) -> None:
    model = peft_three(inputs, outputs, rank, bias, dropout, torch.float64)
    x = torch.randn(2, tokens, inputs, dtype=torch.float64)
    expected = run(model, lambda m, x: m(x), x)
    actual = run(model, lambda m, x: fused(m, x, dropout), x)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert distance(actual[name], value) <= 1e-10, name


def gate(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return nn.functional.silu(first) * second


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["64", "32"]
)
def test_layers_that_read_a_gated_input_equal_peft(
    dtype: torch.dtype, tolerance: float, dropout: float
) -> None:
    model = peft_three(48, (64, 32), 4, False, dropout, dtype)
    x = torch.randn(30, 96, dtype=dtype)
    expected = run(model, lambda m, x: m(gate(x)), x)
    actual = run(model, lambda m, x: fused(m, x, dropout, gate_up=True), x)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert distance(actual[name], value) <= tolerance, name


def test_a_gated_input_is_formed_again_and_not_kept() -> None:
    adapter = LowRank(torch.randn(2, 48, requires_grad=True), torch.randn(5, 2), 1.0)
    x = torch.randn(30, 96, requires_grad=True)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tuple(tensor.shape)) or tensor, lambda tensor: tensor
    ):
        lora_product(x, torch.randn(5, 48), None, [adapter], [5], gate_up=True)
    assert (30, 96) in kept
    assert (30, 48) not in kept


def test_products_and_gradients_equal_peft_in_float32() -> None:
    model = peft_three(96, (64, 32, 32), 16, False, 0.0, torch.float32)
    x = torch.randn(1, 200, 96)
    expected = run(model, lambda m, x: m(x), x)
    actual = run(model, lambda m, x: fused(m, x, 0.0), x)
    for name, value in expected.items():
        assert distance(actual[name], value) <= 1e-5, name


def test_bfloat16_is_no_worse_than_peft_in_bfloat16() -> None:
    exact = peft_three(96, (64, 32, 32), 16, False, 0.0, torch.float64)
    exact.load_state_dict({n: t.bfloat16().double() for n, t in exact.state_dict().items()})
    x = torch.randn(1, 200, 96).bfloat16()
    reference = run(exact, lambda m, x: m(x), x.double())
    rounded = copy.deepcopy(exact).bfloat16()
    plain = run(rounded, lambda m, x: m(x), x)
    actual = run(rounded, lambda m, x: fused(m, x, 0.0), x)
    for name, value in reference.items():
        assert distance(actual[name], value) <= 1.1 * distance(plain[name], value) + 1e-4, name


def test_adapter_in_float32_beside_bfloat16_learns_in_float32() -> None:
    x = torch.randn(5, 8).bfloat16()
    a, b = torch.randn(2, 8, requires_grad=True), torch.randn(6, 2, requires_grad=True)
    lora_linear(x, torch.randn(6, 8).bfloat16(), None, a, b, 2.0).sum().backward()
    assert a.grad is not None
    assert a.grad.dtype == torch.float32
    assert b.grad is not None
    assert b.grad.dtype == torch.float32


def test_a_layer_without_adapter_is_the_frozen_product() -> None:
    x, weight = torch.randn(4, 6), torch.randn(5, 6)
    adapter = LowRank(torch.randn(2, 6), torch.randn(2, 2), 1.0)
    second = lora_product(x, weight, None, [adapter, None], [2, 3])[:, 2:]
    assert torch.allclose(second, x @ weight[2:].T, atol=1e-6)


def test_an_input_that_needs_no_gradient_gets_none() -> None:
    x = torch.randn(4, 6)
    a, b = torch.randn(2, 6, requires_grad=True), torch.randn(5, 2, requires_grad=True)
    lora_linear(x, torch.randn(5, 6), None, a, b, 1.0).sum().backward()
    assert x.grad is None
    assert a.grad is not None


def test_sizes_that_do_not_fit_the_weight_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        lora_product(torch.randn(2, 3), torch.randn(4, 3), None, [None], [5])
