"""A linear layer's three products with factors of 8 bits, for devices that multiply such numbers.

    y_TO  = x_TI  W_OI^T     x as e4m3, W as e4m3
    dx_TI = dy_TO W_OI       dy as e5m2: gradients spread over more orders of magnitude
    dW_OI = dy_TO^T x_TI

Each factor is scaled so that its largest number is the largest of its format, and rounded; sums are
those of float32 (Micikevicius et al., 2022, arXiv:2209.05433). The scale is found anew each time,
one for a tensor, so that nothing has to be kept from step to step. For the backward pass the
rounded factors are kept, a byte each. What learns stays in its own format.

Shapes: T tokens, I input size, O output size. PyTorch multiplies these formats on processors too,
slowly. It knows no modules and does not ask whether a device is fast at it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

VALUES, GRADIENTS = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16
"""What sizes of a product's factors must be multiples of."""


def float8_linear(
    x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return `x weight^T + bias` in `dtype`; the gradient of the weight comes in its own format.

    Args:
        x: [..., I].
        dtype: of what comes out, and of the gradient of x: bfloat16 or float32.

    Raises ValueError where a size of the weight is no multiple of 16.
    """
    if any(size % MULTIPLE for size in weight_OI.shape):
        raise ValueError(f"{tuple(weight_OI.shape)} are no multiples of {MULTIPLE}")
    y_TO: Tensor = _Products.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]), weight_OI, dtype
    )
    if bias_O is not None:
        y_TO = y_TO + bias_O.to(dtype)
    return y_TO.view(*x.shape[:-1], y_TO.shape[-1])


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor, dtype: torch.dtype) -> Tensor:
        x8_TI, x_scale = rounded(x_TI, VALUES)
        weight8_OI, weight_scale = rounded(weight_OI, VALUES)
        ctx.save_for_backward(x8_TI, x_scale, weight8_OI, weight_scale)
        ctx.formats = (x_TI.dtype, weight_OI.dtype, dtype)
        return _product(x8_TI, weight8_OI.t(), x_scale, weight_scale, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x8_TI, x_scale, weight8_OI, weight_scale = ctx.saved_tensors
        of_x, of_weight, dtype = ctx.formats
        grad8_TO, scale = rounded(grad_TO, GRADIENTS)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _product(grad8_TO, _by_columns(weight8_OI), scale, weight_scale, dtype)
            grad_x = grad_x.to(of_x)
        if ctx.needs_input_grad[1]:
            grad8_OT = _filled_up(grad8_TO).t().contiguous()
            x8_TI = _by_columns(_filled_up(x8_TI))
            grad_weight = _product(grad8_OT, x8_TI, scale, x_scale, of_weight)
        return grad_x, grad_weight, None


def rounded(numbers: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return numbers in 8 bits, by rows, and what they are to be multiplied with to be as before.

    Numbers that are not finite stay so, that the loss shows them.
    """
    least, largest = numbers.detach().aminmax()
    peak = torch.maximum(largest.float(), -least.float())
    scale = torch.where(peak > 0, peak / torch.finfo(dtype).max, 1.0)
    scale = scale.clamp_min(torch.finfo(torch.float32).tiny)  # numbers of which nothing is left
    return (numbers / scale).to(dtype).contiguous(), scale


def _product(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `a b`; `a` lies in memory by rows, `b` by columns, as the devices want it."""
    return torch._scaled_mm(a, b, scale_a, scale_b, out_dtype=dtype)


def _by_columns(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def _filled_up(x: Tensor) -> Tensor:
    """Return the rows with rows of zeros below, so that their number is a multiple of 16."""
    missing = -len(x) % MULTIPLE
    if not missing:
        return x
    plain = torch.nn.functional.pad(x.view(torch.uint8), (0, 0, 0, missing))
    return plain.view(x.dtype)
