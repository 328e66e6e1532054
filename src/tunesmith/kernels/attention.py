"""Attention over documents that lie end to end in one row, none seeing another.

    q, k, v [1, H, T, K] + document boundaries  ──>  [1, H, T, K]

On a CPU the row is cut into *blocks*: neighbouring short documents share one, a long document is
cut into several, each with the keys that it may see. In a block the scores are formed by matrix
products, the softmax runs over each query's own range of keys, and the backward pass forms the
scores again from two numbers per query rather than keeping them. Keys and values shared by several
query heads are never repeated in memory. On a CUDA device PyTorch's variable-length flash kernel
is used where it takes the dtype, else its scaled dot product, document by document.

    causal, three documents of 3, 2 and 4 tokens       range of keys of each query
    d1 x . .                                            [0,1) [0,2) [0,3)
    d2       x .                                        [3,4) [3,5)
    d3           x . . .                                [5,6) [5,7) [5,8) [5,9)

Shapes: H query heads, J key heads (H = J * G), T tokens, K head size. It knows no model and no
positions: rotary or other position information is already in q and k.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import native
from tunesmith.kernels.rotary import rotate_

BLOCK_ROWS = 256
"""Most queries of one block (measured: see benchmarks/kernels_cpu.py)."""


@dataclass(frozen=True)
class Block:
    """Queries `[first, last)` of the row and the keys `[key_first, key_last)` that they may see."""

    first: int
    last: int
    key_first: int
    key_last: int


@dataclass(frozen=True)
class Spans:
    """Who sees whom in a packed row: made once a batch, used by every layer.

    `low_T[t]` and `high_T[t]` bound the keys that query t sees: `low <= key < high` (int32).
    """

    cu_seqlens: Tensor
    causal: bool
    window: int | None
    low_T: Tensor
    high_T: Tensor
    blocks: tuple[Block, ...]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each document."""
        return tuple(torch.diff(self.cu_seqlens).tolist())

    def mask(self, block: Block) -> Tensor:
        """Return which keys each query of a block sees, [queries, keys], boolean."""
        keys = torch.arange(block.key_first, block.key_last, device=self.low_T.device)
        low, high = self.low_T[block.first : block.last], self.high_T[block.first : block.last]
        return (keys >= low[:, None]) & (keys < high[:, None])


def document_spans(
    cu_seqlens: Tensor,
    *,
    causal: bool,
    window: int | None = None,
    block_rows: int = BLOCK_ROWS,
) -> Spans:
    """Work out the ranges and blocks of a packed row.

    Args:
        cu_seqlens: where each document begins, and the end: N + 1 whole numbers from 0 to T.
        causal: each query sees the keys up to its own place.
        window: how many keys back a query sees, itself included (sliding-window attention); for
            attention in both directions, how far to either side.
        block_rows: most queries of one block.
    """
    bounds = cu_seqlens.tolist()
    lengths = torch.diff(cu_seqlens).long()
    places_T = torch.arange(bounds[-1], device=cu_seqlens.device)
    starts_T = torch.repeat_interleave(cu_seqlens[:-1].long(), lengths)
    ends_T = torch.repeat_interleave(cu_seqlens[1:].long(), lengths)
    high_T = places_T + 1 if causal else ends_T
    low_T = starts_T
    if window is not None:
        low_T = torch.maximum(low_T, places_T - (window - 1))
        high_T = torch.minimum(high_T, places_T + window)
    low_T, high_T = low_T.int().contiguous(), high_T.int().contiguous()
    blocks = []
    for first, last in _query_blocks(bounds, block_rows):
        keys = int(low_T[first]), int(high_T[first:last].max())
        blocks.append(Block(first, last, *keys))
    return Spans(cu_seqlens, causal, window, low_T, high_T, tuple(blocks))


def _query_blocks(bounds: list[int], block_rows: int) -> list[tuple[int, int]]:
    """Group neighbouring short documents, cut long ones; empty documents vanish."""
    groups: list[tuple[int, int]] = []
    start = bounds[0]
    for before, end in pairwise(bounds):
        if end - start > block_rows and before > start:
            groups.append((start, before))
            start = before
        while end - start > block_rows:
            groups.append((start, start + block_rows))
            start += block_rows
            if end - start <= block_rows:
                groups.append((start, end))
                start = end
    if bounds[-1] > start:
        groups.append((start, bounds[-1]))
    return [group for group in groups if group[1] > group[0]]


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: Spans,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return softmax(scale * q k^T) v within each document.

    Args:
        q: [1, H, T, K]; usually a transposed view of [T, H, K], which is the layout it likes.
        k, v: [1, J, T, K], H a multiple of J.
        spans: from `document_spans`, once a batch.
        scale: factor of the scores; None is 1/sqrt(K).
        dropout: probability to drop a weight of attention.

    Returns [1, H, T, K], a transposed view of contiguous [1, T, H, K]. Raises ValueError where
    shapes disagree.
    """
    heads, rows, size = q.shape[1:]
    if q.shape[0] != 1 or k.shape != v.shape or heads % k.shape[1] or rows != len(spans.low_T):
        raise ValueError(
            f"packed attention takes one row of {len(spans.low_T)} tokens; got q {tuple(q.shape)}, "
            f"k {tuple(k.shape)}, v {tuple(v.shape)}"
        )
    scale = size**-0.5 if scale is None else scale
    if q.is_cuda and dropout == 0.0 and q.dtype in (torch.float16, torch.bfloat16):
        return _varlen(q, k, v, spans, scale)
    if q.is_cuda or dropout > 0.0:
        return by_document(q, k, v, spans, scale=scale, dropout=dropout)
    output_THK: Tensor = _BlockAttention.apply(  # type: ignore[no-untyped-call]
        q[0].transpose(0, 1), k[0].transpose(0, 1), v[0].transpose(0, 1), spans, scale
    )
    return output_THK.transpose(0, 1)[None]


def by_document(
    q: Tensor, k: Tensor, v: Tensor, spans: Spans, *, scale: float, dropout: float = 0.0
) -> Tensor:
    """The plain path: one call of PyTorch's scaled dot product a document."""
    bounds = spans.cu_seqlens.tolist()
    outputs = []
    for first, last in pairwise(bounds):
        mask = None if spans.window is None else spans.mask(Block(first, last, first, last))
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                q[:, :, first:last],
                k[:, :, first:last],
                v[:, :, first:last],
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=spans.causal and mask is None,
                scale=scale,
                enable_gqa=q.shape[1] != k.shape[1],
            ).transpose(1, 2)
        )
    return torch.cat(outputs, 1).transpose(1, 2)


def _varlen(q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    longest = max(spans.lengths)
    back = -1 if spans.window is None else spans.window - 1
    starts = spans.cu_seqlens.to(device=q.device, dtype=torch.int32)
    output_THK = varlen_attn(
        q[0].transpose(0, 1),
        k[0].transpose(0, 1),
        v[0].transpose(0, 1),
        starts,
        starts,
        longest,
        longest,
        scale=scale,
        window_size=(back, 0 if spans.causal else back),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(output_THK, Tensor)
    return output_THK.transpose(0, 1)[None]


def packed_rotary_attention(
    qkv_TC: Tensor,
    cos_TK: Tensor,
    sin_TK: Tensor,
    heads: int,
    key_heads: int,
    spans: Spans,
    *,
    scale: float | None = None,
) -> Tensor:
    """Rotate queries and keys, then attend: from the joint product of a layer to its output.

    Args:
        qkv_TC: queries, keys and values of each token side by side, C = (H + 2J) * K. It is
            **consumed**: rotated in place, so it must be the fresh output of a product that does
            not save it (`lora_product`) and be used nowhere else.
        cos_TK, sin_TK: of each token's position, for a whole head, as transformers makes them.
        heads, key_heads: H and J.
        spans: from `document_spans`, once a batch.
        scale: factor of the scores; None is 1/sqrt(K).

    Returns [T, H * K]. Only on the CPU; elsewhere use `rotary` and `packed_attention`.
    """
    size = cos_TK.shape[-1]
    output_TC: Tensor = _RotaryAttention.apply(  # type: ignore[no-untyped-call]
        qkv_TC,
        cos_TK.to(_softmax_dtype(qkv_TC)).contiguous(),
        sin_TK.to(_softmax_dtype(qkv_TC)).contiguous(),
        (heads, key_heads),
        spans,
        size**-0.5 if scale is None else scale,
    )
    return output_TC


class _BlockAttention(torch.autograd.Function):
    """Blocks of scores; saved: q, k, v, the output, and the log-sum-exp of each query."""

    @staticmethod
    def forward(
        ctx: Any, q_THK: Tensor, k_TJK: Tensor, v_TJK: Tensor, spans: Spans, scale: float
    ) -> Tensor:
        output_THK, normaliser_HT = _attend(q_THK, k_TJK, v_TJK, spans, scale)
        ctx.save_for_backward(q_THK, k_TJK, v_TJK, output_THK, normaliser_HT)
        ctx.spans, ctx.scale = spans, scale
        return output_THK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THK: Tensor) -> tuple[Tensor | None, ...]:
        q_THK, k_TJK, v_TJK, output_THK, normaliser_HT = ctx.saved_tensors
        gradients = tuple(x.new_empty(x.shape) for x in (q_THK, k_TJK, v_TJK))
        _attend_backward(
            grad_THK,
            (q_THK, k_TJK, v_TJK),
            output_THK,
            normaliser_HT,
            ctx.spans,
            ctx.scale,
            gradients,
        )
        return (*gradients, None, None)


class _RotaryAttention(torch.autograd.Function):
    """The same from one joint tensor, whose gradient is written in the same layout."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv_TC: Tensor,
        cos_TK: Tensor,
        sin_TK: Tensor,
        heads: tuple[int, int],
        spans: Spans,
        scale: float,
    ) -> Tensor:
        rotate_(qkv_TC, cos_TK, sin_TK, sum(heads))
        q_THK, k_TJK, v_TJK = _parts(qkv_TC, heads, cos_TK.shape[-1])
        output_THK, normaliser_HT = _attend(q_THK, k_TJK, v_TJK, spans, scale)
        ctx.save_for_backward(qkv_TC, cos_TK, sin_TK, output_THK, normaliser_HT)
        ctx.heads, ctx.spans, ctx.scale = heads, spans, scale
        return output_THK.view(output_THK.shape[0], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TC: Tensor) -> tuple[Tensor | None, ...]:
        qkv_TC, cos_TK, sin_TK, output_THK, normaliser_HT = ctx.saved_tensors
        size = cos_TK.shape[-1]
        back_TC = torch.empty_like(qkv_TC)
        _attend_backward(
            grad_TC.reshape(output_THK.shape),
            _parts(qkv_TC, ctx.heads, size),
            output_THK,
            normaliser_HT,
            ctx.spans,
            ctx.scale,
            _parts(back_TC, ctx.heads, size),
        )
        rotate_(back_TC, cos_TK, sin_TK, sum(ctx.heads), backward=True)
        return back_TC, None, None, None, None, None


def _parts(qkv_TC: Tensor, heads: tuple[int, int], size: int) -> tuple[Tensor, Tensor, Tensor]:
    qkv_TNK = qkv_TC.view(qkv_TC.shape[0], -1, size)
    q_THK, k_TJK, v_TJK = torch.split(qkv_TNK, [heads[0], heads[1], heads[1]], 1)
    return q_THK, k_TJK, v_TJK


def _attend(
    q_THK: Tensor, k_TJK: Tensor, v_TJK: Tensor, spans: Spans, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the output [T, H, K] and the log-sum-exp of each query's scores [H, T]."""
    rows_in_all, heads, size = q_THK.shape
    output_THK = q_THK.new_empty(rows_in_all, heads, size)
    normaliser_HT = q_THK.new_empty(heads, rows_in_all, dtype=_softmax_dtype(q_THK))
    for block in spans.blocks:
        rows, keys = slice(block.first, block.last), slice(block.key_first, block.key_last)
        scores_HQT = _scores(q_THK[rows], k_TJK[keys], scale)
        _softmax_(scores_HQT, normaliser_HT[:, rows], spans, block)
        _weighted(scores_HQT.to(v_TJK.dtype), v_TJK[keys], output_THK[rows])
    return output_THK, normaliser_HT


def _attend_backward(
    grad_THK: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    output_THK: Tensor,
    normaliser_HT: Tensor,
    spans: Spans,
    scale: float,
    gradients: tuple[Tensor, ...],
) -> None:
    """Write the gradients of the inputs q, k and v into `gradients`."""
    q_THK, k_TJK, v_TJK = inputs
    dtype, groups = normaliser_HT.dtype, k_TJK.shape[1]
    delta_HT = (output_THK.to(dtype) * grad_THK.to(dtype)).sum(-1).T.contiguous()
    gq_THK = gradients[0]
    # Keys are seen by several blocks: their gradients add up, in the softmax's precision.
    gk_TJK, gv_TJK = (g.zero_() if g.dtype == dtype else g.to(dtype).zero_() for g in gradients[1:])
    for block in spans.blocks:
        rows, keys = slice(block.first, block.last), slice(block.key_first, block.key_last)
        scores_HQT = _scores(q_THK[rows], k_TJK[keys], scale)
        back_HQT = _scores(grad_THK[rows], v_TJK[keys], 1.0)
        _softmax_backward_(
            scores_HQT, back_HQT, normaliser_HT[:, rows], delta_HT[:, rows], spans, block
        )
        weights_HQT, back_HQT = scores_HQT.to(q_THK.dtype), back_HQT.to(q_THK.dtype)
        _weighted(back_HQT, k_TJK[keys], gq_THK[rows], scale)
        gv_TJK[keys] += _gathered(weights_HQT, grad_THK[rows], groups)
        gk_TJK[keys] += _gathered(back_HQT, q_THK[rows], groups).mul_(scale)
    for target, total in zip(gradients[1:], (gk_TJK, gv_TJK), strict=True):
        if target is not total:
            target.copy_(total)


def _softmax_dtype(q_THK: Tensor) -> torch.dtype:
    return torch.promote_types(q_THK.dtype, torch.float32)


def _fold(q_QHK: Tensor, groups: int) -> Tensor:
    """Lay the query heads of one key head under another: [Q, J*G, K] -> [J, G*Q, K]."""
    rows, heads, size = q_QHK.shape
    split = q_QHK.reshape(rows, groups, heads // groups, size)
    return split.permute(1, 2, 0, 3).reshape(groups, -1, size)


def _grouped(scores_HQT: Tensor, groups: int) -> Tensor:
    return scores_HQT.view(groups, -1, scores_HQT.shape[-1])


def _scores(q_QHK: Tensor, k_TJK: Tensor, scale: float) -> Tensor:
    """Return scale * q k^T as [H, Q, T], in the dtype of the softmax."""
    rows, heads, _ = q_QHK.shape
    folded_JQK = _fold(q_QHK, k_TJK.shape[1])
    out = folded_JQK.new_empty(folded_JQK.shape[0], folded_JQK.shape[1], k_TJK.shape[0])
    torch.baddbmm(out, folded_JQK, k_TJK.permute(1, 2, 0), beta=0, alpha=scale, out=out)
    return out.view(heads, rows, -1).to(_softmax_dtype(q_QHK))


def _weighted(weights_HQT: Tensor, v_TJK: Tensor, out_QHK: Tensor, scale: float = 1.0) -> None:
    """Write scale * weights v into out, [Q, H, K]."""
    heads, rows, _ = weights_HQT.shape
    groups = v_TJK.shape[1]
    mixed_JQK = torch.bmm(_grouped(weights_HQT, groups), v_TJK.transpose(0, 1))
    mixed = mixed_JQK.view(heads, rows, -1).transpose(0, 1)
    torch.mul(mixed, scale, out=out_QHK) if scale != 1.0 else out_QHK.copy_(mixed)


def _gathered(weights_HQT: Tensor, rows_QHK: Tensor, groups: int) -> Tensor:
    """Return weights^T rows, summed over the query heads of each key head: [T, J, K]."""
    weights_JQT = _grouped(weights_HQT, groups)
    return torch.bmm(weights_JQT.transpose(1, 2), _fold(rows_QHK, groups)).transpose(0, 1)


def _softmax_(scores_HQT: Tensor, normaliser_HQ: Tensor, spans: Spans, block: Block) -> None:
    """Softmax in place over each query's range of keys; writes the log-sum-exp, [H, Q]."""
    if native.usable(scores_HQT):
        native.call("softmax_spans", scores_HQT, normaliser_HQ, *_ranges(scores_HQT, spans, block))
        return
    scores_HQT.masked_fill_(~spans.mask(block), -torch.inf)
    normaliser_HQ.copy_(scores_HQT.logsumexp(-1))
    scores_HQT.sub_(normaliser_HQ[..., None]).exp_()


def _softmax_backward_(
    scores_HQT: Tensor,
    back_HQT: Tensor,
    normaliser_HQ: Tensor,
    delta_HQ: Tensor,
    spans: Spans,
    block: Block,
) -> None:
    """In place: scores become attention weights, `back` (grad v^T) the gradient of the scores."""
    if native.usable(scores_HQT, back_HQT):
        tensors = (scores_HQT, back_HQT, normaliser_HQ, delta_HQ)
        native.call("softmax_spans_backward", *tensors, *_ranges(scores_HQT, spans, block))
        return
    scores_HQT.masked_fill_(~spans.mask(block), -torch.inf)
    scores_HQT.sub_(normaliser_HQ[..., None]).exp_()
    back_HQT.sub_(delta_HQ[..., None]).mul_(scores_HQT)


def _ranges(scores_HQT: Tensor, spans: Spans, block: Block) -> tuple[Tensor | int, ...]:
    """Arguments of the compiled softmaxes: ranges of keys, sizes, tokens in the whole row."""
    low, high = spans.low_T[block.first : block.last], spans.high_T[block.first : block.last]
    return low, high, block.key_first, *scores_HQT.shape, len(spans.low_T)
