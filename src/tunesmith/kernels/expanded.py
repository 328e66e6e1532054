"""A frozen matrix product whose weight is stored packed and expanded while it is used.

    y = x W^T + bias        W [O, D] is made from what is stored; in 8 bits: scale * packed,
                            packed [O, D] int8, scale [O]: the largest value of a row

The expanded weight is made anew in the backward pass rather than kept, so that one of them exists
at a time. The inputs are not rounded: what a token gives depends on no other token beside it, in
training as in use (where bitsandbytes rounds inputs too, and treats a column in which any token is
large apart).

Shapes: T tokens, D inputs, O outputs. It knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_LARGEST = 127.0


def expanded(packed_OD: Tensor, scale_O: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight that is stored as `packed_OD`, in `dtype`."""
    return packed_OD.to(dtype, copy=True).mul_(scale_O.unsqueeze(1).mul(1.0 / _LARGEST))


def int8_product(x: Tensor, packed_OD: Tensor, scale_O: Tensor, bias_O: Tensor | None) -> Tensor:
    """Return `x weight^T + bias` for a weight that `expanded` gives; see `expanded_product`."""
    return expanded_product(x, partial(expanded, packed_OD, scale_O), bias_O)


def expanded_product(
    x: Tensor, expand: Callable[[torch.dtype], Tensor], bias_O: Tensor | None
) -> Tensor:
    """Return `x weight^T + bias`, in the dtype of autocast where that is on, else in that of x.

    Gradients reach x and the bias; the weight is frozen.

    Args:
        expand: returns the weight, `[O, D]`, in the dtype that it is given; the same every time.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    with torch.autocast(kind, enabled=False):
        product: Tensor = _Product.apply(x.to(dtype), expand)  # type: ignore[no-untyped-call]
        return product if bias_O is None else product + bias_O.to(dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, expand: Callable[[torch.dtype], Tensor]) -> Tensor:
        ctx.expand = expand
        return torch.nn.functional.linear(x, expand(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.expand(grad.dtype), None
