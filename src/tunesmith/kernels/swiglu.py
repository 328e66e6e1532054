"""The gated activation of Llama-like feed-forward layers, one pass forward and one backward.

    h = silu(gate) * up        gate and up side by side in one tensor, as one product makes them

Saved: that tensor alone. The gradient comes back in the same layout, so nothing is split and
nothing joined. Shapes: [..., 2F] in, [..., F] out. It knows no model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import native


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(first half) * second half of the last dimension."""
    h: Tensor = _Swiglu.apply(gate_up)  # type: ignore[no-untyped-call]
    return h


def gated(gate_up: Tensor) -> Tensor:
    """Return silu(first half) * second half of the last dimension; nothing is kept for autograd."""
    width = gate_up.shape[-1] // 2
    if not native.usable(gate_up):
        gate, up = torch.split(gate_up, width, -1)
        return torch.nn.functional.silu(gate).mul_(up)
    h = gate_up.new_empty(*gate_up.shape[:-1], width)
    native.call("swiglu", gate_up, h, h.numel() // width, width, dtype=h.dtype)
    return h


def gated_backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    """Return the gradient of both halves, [..., 2F], from that of the result, [..., F]."""
    grad = grad.contiguous()
    back = torch.empty_like(gate_up)
    width = grad.shape[-1]
    if native.usable(gate_up, grad):
        rows = grad.numel() // width
        native.call("swiglu_backward", grad, gate_up, back, rows, width, dtype=grad.dtype)
        return back
    wide = torch.promote_types(grad.dtype, torch.float32)
    gate, up = torch.split(gate_up.to(wide), width, -1)
    sigmoid = gate.sigmoid()
    back[..., :width] = grad * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    back[..., width:] = grad * gate * sigmoid
    return back


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return gated(gate_up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return gated_backward(grad, *ctx.saved_tensors)
