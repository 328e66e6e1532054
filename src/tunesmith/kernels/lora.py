"""A frozen matrix product with a low-rank one beside it, forward and backward.

    y = x W^T + bias + scaling * (dropout(x) A^T) B^T

This is PEFT's LoRA layer as one autograd function: it keeps the input and the low-rank
activations, nothing else; the product of full size is never stored twice, and the gradient of the
frozen weight is never formed. `lora_product` does several layers of one input (query, key, value;
gate, up) at once: one product with their weights laid one under another. A layer that reads
silu(gate) * up can form it again in the backward pass rather than keep it.

Shapes: T tokens, D input size, O output size, R rank. Leading dimensions of x may be any.
It knows no PEFT, no model; tensors come in, tensors go out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels.dropout import Dropout
from tunesmith.kernels.swiglu import gated, gated_backward, swiglu


@dataclass(frozen=True)
class LowRank:
    """The low-rank product beside a frozen weight: `scaling * (dropout(x) a^T) b^T`.

    `dropout` is the probability to drop an input in training; give 0.0 in evaluation.
    """

    a_RD: Tensor
    b_OR: Tensor
    scaling: float
    dropout: float = 0.0


def lora_linear(
    x: Tensor,
    weight_OD: Tensor,
    bias_O: Tensor | None,
    a_RD: Tensor,
    b_OR: Tensor,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """Return `x weight^T + bias + scaling * (dropout(x) a^T) b^T`, in the dtype of x.

    Gradients reach x, a and b; the weight and its bias are frozen. The adapter may be kept in
    another dtype than x (float32 beside bfloat16): its products are computed in that of x and its
    gradients come back in its own. Dropout is that of `kernels/dropout.py`.
    """
    adapter = LowRank(a_RD, b_OR, scaling, dropout)
    return lora_product(x, weight_OD, bias_O, [adapter], [weight_OD.shape[0]])


def lora_product(
    x: Tensor,
    weight_OD: Tensor,
    bias_O: Tensor | None,
    adapters: Sequence[LowRank | None],
    sizes: Sequence[int],
    *,
    gate_up: bool = False,
) -> Tensor:
    """Return the outputs of several frozen layers of one input, side by side: [..., O].

    Args:
        x: the input of all, [..., D].
        weight_OD: their weights one under another (`torch.cat`, once, when the engine is made).
        bias_O: their biases end to end, or None.
        adapters: one for each layer, or None for a layer that learns nothing.
        sizes: output size of each; they sum to O.
        gate_up: x holds gate and up side by side, [..., 2D], and the layers read silu(gate) * up.

    The output is saved by nobody here, so the next function may change it in place. Computed in
    the dtype of autocast where that is on, else in that of x; there, the weight is best stored.
    Raises ValueError where sizes and weight disagree.
    """
    if sum(sizes) != weight_OD.shape[0] or len(sizes) != len(adapters):
        raise ValueError(
            f"{len(adapters)} adapters and outputs {list(sizes)} do not fit a weight with "
            f"{weight_OD.shape[0]} rows"
        )
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else x.dtype
    present = [adapter for adapter in adapters if adapter]
    with torch.autocast(kind, enabled=False):
        frozen = (weight_OD.to(dtype), None if bias_O is None else bias_O.to(dtype))
        x_TD = x.to(dtype).reshape(-1, x.shape[-1])
        y_TO: Tensor
        if gate_up and (not present or any(adapter.dropout for adapter in present)):
            x_TD, gate_up = swiglu(x_TD), False
        if any(adapter.dropout for adapter in present):
            settings = tuple((ad.scaling, ad.dropout) if ad else None for ad in adapters)
            low_rank = [t for adapter in present for t in (adapter.a_RD, adapter.b_OR)]
            y_TO = _DroppedProducts.apply(  # type: ignore[no-untyped-call]
                x_TD, *frozen, settings, tuple(sizes), *low_rank
            )
        elif present:
            a_SD = torch.cat([adapter.a_RD.to(dtype) for adapter in present])
            y_TO = _StackedProducts.apply(  # type: ignore[no-untyped-call]
                x_TD, *frozen, gate_up, _places(adapters, sizes), a_SD, *(ad.b_OR for ad in present)
            )
        else:
            y_TO = torch.nn.functional.linear(x_TD, *frozen)
    return y_TO.view(*x.shape[:-1], y_TO.shape[-1])


@dataclass(frozen=True)
class _Place:
    """Where one adapter stands: its ranks among all ranks, its outputs among all outputs."""

    ranks: slice
    outputs: slice
    scaling: float


def _places(adapters: Sequence[LowRank | None], sizes: Sequence[int]) -> tuple[_Place, ...]:
    places = []
    rank = output = 0
    for adapter, size in zip(adapters, sizes, strict=True):
        if adapter:
            ranks = slice(rank, rank + adapter.a_RD.shape[0])
            places.append(_Place(ranks, slice(output, output + size), adapter.scaling))
            rank = ranks.stop
        output += size
    return tuple(places)


class _StackedProducts(torch.autograd.Function):
    """Without dropout: all adapters read the same x, so their first factors are one, S ranks.

    Saved: x (gate and up side by side, where these are given) and the low-rank activations.
    """

    @staticmethod
    def forward(
        ctx: Any,
        given: Tensor,
        weight_OD: Tensor,
        bias_O: Tensor | None,
        gate_up: bool,
        places: tuple[_Place, ...],
        a_SD: Tensor,
        *b_OR: Tensor,
    ) -> Tensor:
        x_TD = gated(given) if gate_up else given
        y_TO = torch.nn.functional.linear(x_TD, weight_OD, bias_O)
        inner_TS = x_TD @ a_SD.T
        for place, b in zip(places, b_OR, strict=True):
            part_TO, inner_TR = y_TO[:, place.outputs], inner_TS[:, place.ranks]
            part_TO.addmm_(inner_TR, b.to(x_TD.dtype).T, alpha=place.scaling)
        ctx.places, ctx.gate_up = places, gate_up
        ctx.save_for_backward(given, weight_OD, a_SD, inner_TS, *b_OR)
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        given, weight_OD, a_SD, inner_TS, *b_OR = ctx.saved_tensors
        inner_grad_TS = torch.empty_like(inner_TS)
        gb_OR = []
        for place, b in zip(ctx.places, b_OR, strict=True):
            part_TO, inner_TR = grad_TO[:, place.outputs], inner_TS[:, place.ranks]
            inner_grad_TS[:, place.ranks] = part_TO @ (b.to(given.dtype) * place.scaling)
            gb_OR.append((inner_TR.T @ part_TO).T.to(b.dtype) * place.scaling)
        ga_SD = inner_grad_TS.T @ (gated(given) if ctx.gate_up else given)
        back = None
        if ctx.needs_input_grad[0]:
            back = (grad_TO @ weight_OD).addmm_(inner_grad_TS, a_SD)
            back = gated_backward(back, given) if ctx.gate_up else back
        return back, None, None, None, None, ga_SD, *gb_OR


class _DroppedProducts(torch.autograd.Function):
    """With dropout every adapter reads its own x. Saved: x, low-rank activations, the seeds."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_OD: Tensor,
        bias_O: Tensor | None,
        settings: tuple[tuple[float, float] | None, ...],
        sizes: tuple[int, ...],
        *low_rank: Tensor,
    ) -> Tensor:
        y_TO = torch.nn.functional.linear(x_TD, weight_OD, bias_O)
        pairs = iter(low_rank)
        inner: list[Tensor] = []
        draws: list[Dropout] = []
        start = 0
        for setting, size in zip(settings, sizes, strict=True):
            if setting is not None:
                a_RD, b_OR = next(pairs), next(pairs)
                scaling, dropout = setting
                draws.append(Dropout.drawn(dropout))
                inner_TR = draws[-1].applied(x_TD) @ a_RD.to(x_TD.dtype).T
                y_TO[:, start : start + size].addmm_(inner_TR, b_OR.to(x_TD.dtype).T, alpha=scaling)
                inner.append(inner_TR)
            start += size
        ctx.settings, ctx.sizes, ctx.draws = settings, sizes, draws
        ctx.save_for_backward(x_TD, weight_OD, *low_rank, *inner)
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_OD, *saved = ctx.saved_tensors
        count = len(ctx.draws)
        low_rank, inner = saved[: 2 * count], saved[2 * count :]
        dtype = x_TD.dtype
        gx_TD = grad_TO @ weight_OD if ctx.needs_input_grad[0] else None
        gradients: list[Tensor | None] = []
        start = which = 0
        for setting, size in zip(ctx.settings, ctx.sizes, strict=True):
            if setting is not None:
                scaling, _ = setting
                a_RD, b_OR = low_rank[2 * which], low_rank[2 * which + 1]
                drawn: Dropout = ctx.draws[which]
                part_TO = grad_TO[:, start : start + size]
                inner_grad_TR = part_TO @ (b_OR.to(dtype) * scaling)
                gradients.append((inner_grad_TR.T @ drawn.applied(x_TD)).to(a_RD.dtype))
                gradients.append((part_TO.T @ inner[which]).to(b_OR.dtype).mul_(scaling))
                if gx_TD is not None:
                    gx_TD += drawn.applied(inner_grad_TR @ a_RD.to(dtype))
                which += 1
            start += size
        return (gx_TD, None, None, None, None, *gradients)
