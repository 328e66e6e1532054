"""Root-mean-square normalisation as one pass forward and one backward.

    y = x / sqrt(mean(x^2) + epsilon) * weight

Saved: the input and one number a row. In PyTorch's own operations the same is six passes over
memory and four saved tensors. Arithmetic is in float32 (float64 where the input is).

Shapes: leading dimensions any, D last. The module knows no model; a family whose norm multiplies
by (1 + weight) gives that sum as the weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import native


def rms_norm(x: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """Return the normalised x, in its own dtype; gradients reach x, and a weight that learns."""
    y: Tensor = _RmsNorm.apply(x, weight_D, epsilon)  # type: ignore[no-untyped-call]
    return y


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        x_TD = x.reshape(-1, x.shape[-1])
        ctx.native = native.usable(x_TD)
        if ctx.native:
            inverse_T = x_TD.new_empty(x_TD.shape[0], dtype=torch.float32)
            y_TD = torch.empty_like(x_TD)
            arguments = (x_TD, weight_D.float().contiguous(), y_TD, inverse_T, epsilon)
            native.call("rms_norm", *arguments, *x_TD.shape, dtype=x.dtype)
        else:
            wide_TD = x_TD.to(_wide(x))
            inverse_T = (wide_TD.square().mean(-1) + epsilon).rsqrt()
            y_TD = (wide_TD * inverse_T[:, None] * weight_D).to(x.dtype)
        ctx.save_for_backward(x_TD, weight_D, inverse_T)
        return y_TD.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_D, inverse_T = ctx.saved_tensors
        grad_TD = grad.reshape(x_TD.shape).contiguous()
        wide = _wide(x_TD)
        gweight_D = None
        if ctx.needs_input_grad[1]:
            normal_TD = x_TD.to(wide) * inverse_T[:, None]
            gweight_D = (grad_TD.to(wide) * normal_TD).sum(0).to(weight_D.dtype)
        if not ctx.needs_input_grad[0]:
            return None, gweight_D, None
        if ctx.native and native.usable(x_TD, grad_TD):
            gx_TD = torch.empty_like(x_TD)
            weight = weight_D.float().contiguous()
            arguments = (grad_TD, x_TD, weight, inverse_T, gx_TD, *x_TD.shape)
            native.call("rms_norm_backward", *arguments, dtype=x_TD.dtype)
        else:
            slope_TD = grad_TD.to(wide) * weight_D * inverse_T[:, None]
            normal_TD = x_TD.to(wide) * inverse_T[:, None]
            along_T = (slope_TD * normal_TD).mean(-1, keepdim=True)
            gx_TD = (slope_TD - normal_TD * along_T).to(x_TD.dtype)
        return gx_TD.view_as(grad), gweight_D, None


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
