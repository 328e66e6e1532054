"""Attention over documents of one row whose scores have a bias by place, such as T5's.

    spans, heads        ──side_by_side──>  documents       once a batch
    bias [1, H, L, L]   ──documents.bias──>  bias          once for all layers that share it
    q, k, v [1, H, T, K] + documents + bias  ──>  [1, H, T, K]

Only here documents are padded: rows are brought side by side for the scores and back again, so that
whatever is computed row by row before and after has no padding. Documents of about one length go
together (`groups`), so that one long text does not make a row of scores of every short one. It is
made of batched products of PyTorch, and works on every device.

Shapes: H heads, T tokens, K head size, N documents of a group, L their longest, X = N * H.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels.blocks import softmax_dtype
from tunesmith.kernels.dropout import Dropout
from tunesmith.kernels.spans import Spans

_NEAR = 0.75
"""A document stands in a group if it has at least this share of the longest one's tokens."""


@dataclass(frozen=True)
class Group:
    """Documents of about one length; a row is one head of one token.

    Attributes:
        first: its first place among those of all groups.
        rows: the row at each place, `[N * H * L]`; in the padding, the first of the document.
        hollow: the places that are padding.
        unseen_N11L: -inf for a key that is padding, else 0; None where no query could see one.
    """

    documents: int
    longest: int
    first: int
    rows: Tensor
    hollow: Tensor
    unseen_N11L: Tensor | None

    @property
    def places(self) -> slice:
        """Where it lies among the places of all groups."""
        return slice(self.first, self.first + len(self.rows))


@dataclass(frozen=True)
class SideBySide:
    """The documents of one row in their groups, worked out once a batch.

    Attributes:
        place_R: the place of each row, over all groups.
    """

    heads: int
    causal: bool
    groups: tuple[Group, ...]
    place_R: Tensor

    def bias(self, bias_1HLL: Tensor) -> Tensor:
        """Return a bias as it is added to the scores: -inf where nobody may look ahead."""
        if not self.causal:
            return bias_1HLL.contiguous()
        longest = bias_1HLL.shape[-1]
        ahead_LL = torch.ones(longest, longest, dtype=torch.bool, device=bias_1HLL.device).triu(1)
        return bias_1HLL.contiguous().masked_fill(ahead_LL, -torch.inf)


def side_by_side(spans: Spans, heads: int) -> SideBySide:
    """Lay out the documents of a row for `heads` heads.

    Raises:
        ValueError: beginnings are shared, or a window is set.
    """
    if spans.keys_S is not None or spans.window is not None or spans.cu_own is not spans.cu_seqlens:
        raise ValueError("a bias by place is for documents that see all of themselves")
    starts_D, lengths_D = spans.cu_seqlens[:-1].long(), torch.diff(spans.cu_seqlens).long()
    place_R = torch.empty(int(lengths_D.sum()) * heads, dtype=torch.long, device=starts_D.device)
    found: list[Group] = []
    for members in groups(lengths_D.tolist()):
        member_N = torch.tensor(members, device=starts_D.device)
        first = found[-1].places.stop if found else 0
        group = _group(starts_D[member_N], lengths_D[member_N], heads, first, spans.causal)
        places = torch.arange(len(group.rows), device=starts_D.device)
        real = torch.ones_like(places, dtype=torch.bool).index_fill_(0, group.hollow, False)
        place_R[group.rows[real]] = first + places[real]
        found.append(group)
    return SideBySide(heads, spans.causal, tuple(found), place_R)


def _group(starts_N: Tensor, lengths_N: Tensor, heads: int, first: int, causal: bool) -> Group:
    longest = int(lengths_N.max())
    places_L = torch.arange(longest, device=starts_N.device)
    real_NL = places_L < lengths_N[:, None]
    token_NL = starts_N[:, None] + torch.where(real_NL, places_L, 0)
    head_H1 = torch.arange(heads, device=starts_N.device)[:, None]
    rows_NHL = token_NL[:, None] * heads + head_H1
    hollow = (~real_NL[:, None].expand(-1, heads, -1)).flatten().nonzero()[:, 0]
    unseen_N11L = None
    if len(hollow) and not causal:
        unseen_N11L = torch.where(real_NL, 0.0, -torch.inf)[:, None, None]
    return Group(len(starts_N), longest, first, rows_NHL.flatten(), hollow, unseen_N11L)


def groups(lengths: Sequence[int]) -> list[list[int]]:
    """Return the documents, longest first, in groups whose shortest is near their longest."""
    found: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if found and lengths[place] >= _NEAR * lengths[found[-1][0]]:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def padded_lengths(lengths: Sequence[int]) -> list[int]:
    """Return how long each document is for the scores: as long as the longest of its group."""
    return [lengths[group[0]] for group in groups(lengths) for _ in group]


def biased_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: SideBySide,
    bias: Tensor,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return softmax(scale * q k^T + bias) v within each document.

    Args:
        q, k, v: [1, H, T, K], all of the same rows.
        documents: from `side_by_side`.
        bias: [1, H, L, L] at least, from `documents.bias`: of query and key by their places in a
            document.
        scale: factor of the scores; None is 1/sqrt(K).
        dropout: probability to drop a weight of attention.

    Returns [1, H, T, K], a transposed view of contiguous [1, T, H, K].
    """
    size = q.shape[-1]
    output_RK: Tensor = _BiasedAttention.apply(  # type: ignore[no-untyped-call]
        *(part.squeeze(0).transpose(0, 1).reshape(-1, size) for part in (q, k, v)),
        bias.squeeze(0),
        documents,
        size**-0.5 if scale is None else scale,
        dropout,
    )
    return output_RK.view(1, -1, documents.heads, size).transpose(1, 2)


class _BiasedAttention(torch.autograd.Function):
    """Saved: the inputs as they are, and the weights of each group."""

    @staticmethod
    def forward(
        ctx: Any,
        q_RK: Tensor,
        k_RK: Tensor,
        v_RK: Tensor,
        bias_HLL: Tensor,
        documents: SideBySide,
        scale: float,
        dropout: float,
    ) -> Tensor:
        output_PK = _places(q_RK, documents)
        all_weights: list[Tensor] = []
        drawn: list[Dropout] = []
        for group in documents.groups:
            q_XLK, k_XLK, v_XLK = (_of_group(part, group) for part in (q_RK, k_RK, v_RK))
            weights_XLL = _weights(q_XLK, k_XLK, bias_HLL, group, scale)
            drawn.append(Dropout.drawn(dropout))
            dropped_XLL = drawn[-1].applied(weights_XLL).to(v_RK.dtype)
            torch.bmm(dropped_XLL, v_XLK, out=_in_group(output_PK, group))
            if any(ctx.needs_input_grad):
                all_weights.append(weights_XLL)
        ctx.save_for_backward(q_RK, k_RK, v_RK, *all_weights)
        ctx.documents, ctx.scale, ctx.drawn = documents, scale, drawn
        ctx.bias = bias_HLL.shape if ctx.needs_input_grad[3] else None
        return output_PK.index_select(0, documents.place_R)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RK: Tensor) -> tuple[Tensor | None, ...]:
        q_RK, k_RK, v_RK, *all_weights = ctx.saved_tensors
        documents: SideBySide = ctx.documents
        parts = (q_RK, k_RK, v_RK)
        found = [_places(part, documents) for part in parts]
        bias_HLL = None if ctx.bias is None else all_weights[0].new_zeros(ctx.bias)
        for group, weights_XLL, drawn in zip(documents.groups, all_weights, ctx.drawn, strict=True):
            q_XLK, k_XLK, v_XLK = (_of_group(part, group) for part in parts)
            gq_XLK, gk_XLK, gv_XLK = (_in_group(part, group) for part in found)
            grad_XLK = _of_group(grad_RK, group)
            grad_XLK.view(-1, grad_XLK.shape[-1]).index_fill_(0, group.hollow, 0)
            dropped_XLL = drawn.applied(weights_XLL).to(v_RK.dtype)
            torch.bmm(dropped_XLL.mT, grad_XLK, out=gv_XLK)
            back_XLL = drawn.applied(torch.bmm(grad_XLK, v_XLK.mT).to(weights_XLL.dtype))
            back_XLL = torch.ops.aten._softmax_backward_data(
                back_XLL, weights_XLL, -1, weights_XLL.dtype
            )
            if bias_HLL is not None:
                longest = group.longest
                summed_HLL = back_XLL.view(-1, documents.heads, longest, longest).sum(0)
                bias_HLL[:, :longest, :longest] += summed_HLL
            back_XLL = back_XLL.to(q_RK.dtype)
            torch.baddbmm(gq_XLK, back_XLL, k_XLK, beta=0, alpha=ctx.scale, out=gq_XLK)
            torch.baddbmm(gk_XLK, back_XLL.mT, q_XLK, beta=0, alpha=ctx.scale, out=gk_XLK)
        gradients = [part.index_select(0, documents.place_R) for part in found]
        return (*gradients, bias_HLL, None, None, None)


def _weights(q_XLK: Tensor, k_XLK: Tensor, bias_HLL: Tensor, group: Group, scale: float) -> Tensor:
    """Return the softmax of the scores, in its own dtype; what a place of padding asks is noise."""
    scores_XLL = q_XLK.new_empty(len(q_XLK), group.longest, group.longest)
    torch.baddbmm(scores_XLL, q_XLK, k_XLK.mT, beta=0, alpha=scale, out=scores_XLL)
    scores_XLL = scores_XLL.to(softmax_dtype(q_XLK))
    scores_NHLL = scores_XLL.view(group.documents, -1, group.longest, group.longest)
    scores_NHLL.add_(bias_HLL[:, : group.longest, : group.longest])
    if group.unseen_N11L is not None:
        scores_NHLL.add_(group.unseen_N11L)
    return scores_XLL.softmax(-1)


def _places(rows_RK: Tensor, documents: SideBySide) -> Tensor:
    """Room for a row at every place."""
    return rows_RK.new_empty(documents.groups[-1].places.stop, rows_RK.shape[1])


def _of_group(rows_RK: Tensor, group: Group) -> Tensor:
    """Bring the rows of a group side by side."""
    part_PK = rows_RK.index_select(0, group.rows)
    return part_PK.view(-1, group.longest, part_PK.shape[1])


def _in_group(all_PK: Tensor, group: Group) -> Tensor:
    """The places of a group among those of all."""
    return all_PK[group.places].view(-1, group.longest, all_PK.shape[1])
