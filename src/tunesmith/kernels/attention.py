"""Attention over documents that lie end to end in one row, none seeing another.

    q, k, v [1, H, T, K] + document boundaries  ──>  [1, H, T, K]

On a CPU the row is cut into blocks (`spans.py`): neighbouring short documents share one, a long
document is cut into several, each with the keys that it may see. The backward pass forms the scores
again rather than keep them (`blocks.py`). Keys and values that several query heads share are never
repeated in memory. On a CUDA device PyTorch's variable-length flash kernel
is used where it takes the dtype, else its scaled dot product, document by document. Where documents
share beginnings, q, k and v have the rows that are computed, and keys and values are handed to
every document that reads them.

Shapes: H query heads, J key heads (H = J * G), T tokens, K head size. It knows no model and no
positions: rotary or other position information is already in q and k.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels.blocks import Three, attend, attend_backward, softmax_dtype
from tunesmith.kernels.dropout import Dropout
from tunesmith.kernels.rotary import rotate_
from tunesmith.kernels.spans import Block, Spans, document_spans

__all__ = ["Spans", "by_document", "document_spans", "packed_attention", "packed_rotary_attention"]


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
    if spans.keys_S is not None:
        k, v = k[:, :, spans.keys_S], v[:, :, spans.keys_S]
    if q.is_cuda and dropout == 0.0 and q.dtype in (torch.float16, torch.bfloat16):
        return _varlen(q, k, v, spans, scale)
    if q.is_cuda:
        return by_document(q, k, v, spans, scale=scale, dropout=dropout)
    output_THK: Tensor = _BlockAttention.apply(  # type: ignore[no-untyped-call]
        *(x.squeeze(0).transpose(0, 1).contiguous() for x in (q, k, v)),
        spans,
        scale,
        Dropout.drawn(dropout),
    )
    return output_THK.transpose(0, 1)[None]


def by_document(
    q: Tensor, k: Tensor, v: Tensor, spans: Spans, *, scale: float, dropout: float = 0.0
) -> Tensor:
    """The plain path: one call of PyTorch's scaled dot product a document."""
    outputs = []
    own, all_keys = spans.cu_own.tolist(), spans.cu_seqlens.tolist()
    for (first, last), (begin, end) in zip(pairwise(own), pairwise(all_keys), strict=True):
        if first == last:
            continue
        alone = spans.window is None and last - first == end - begin
        mask = None if alone else spans.mask(Block(first, last, begin, end))
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                q[:, :, first:last],
                k[:, :, begin:end],
                v[:, :, begin:end],
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

    back = -1 if spans.window is None else spans.window - 1
    own, keys = (
        starts.to(device=q.device, dtype=torch.int32) for starts in (spans.cu_own, spans.cu_seqlens)
    )
    output_THK = varlen_attn(
        q.squeeze(0).transpose(0, 1),
        k.squeeze(0).transpose(0, 1),
        v.squeeze(0).transpose(0, 1),
        own,
        keys,
        *spans.longest,
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
        cos_TK.to(softmax_dtype(qkv_TC)).contiguous(),
        sin_TK.to(softmax_dtype(qkv_TC)).contiguous(),
        (heads, key_heads),
        spans,
        size**-0.5 if scale is None else scale,
    )
    return output_TC


class _BlockAttention(torch.autograd.Function):
    """Blocks of scores; saved: q, k, v, the output, and the log-sum-exp of each query."""

    @staticmethod
    def forward(
        ctx: Any,
        q_THK: Tensor,
        k_TJK: Tensor,
        v_TJK: Tensor,
        spans: Spans,
        scale: float,
        dropout: Dropout,
    ) -> Tensor:
        output_THK, normaliser_HT = attend(q_THK, k_TJK, v_TJK, spans, scale, dropout)
        ctx.save_for_backward(q_THK, k_TJK, v_TJK, output_THK, normaliser_HT)
        ctx.spans, ctx.scale, ctx.dropout = spans, scale, dropout
        return output_THK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THK: Tensor) -> tuple[Tensor | None, ...]:
        q_THK, k_TJK, v_TJK, output_THK, normaliser_HT = ctx.saved_tensors
        # Keys that are handed on may have no query, and then no block writes their gradient.
        made = k_TJK.new_empty if ctx.spans.keys_S is None else k_TJK.new_zeros
        gradients = (q_THK.new_empty(q_THK.shape), made(k_TJK.shape), made(v_TJK.shape))
        attend_backward(
            grad_THK,
            (q_THK, k_TJK, v_TJK),
            output_THK,
            normaliser_HT,
            ctx.spans,
            ctx.scale,
            gradients,
            ctx.dropout,
        )
        return (*gradients, None, None, None)


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
        parts = _read_by_all(qkv_TC, heads, cos_TK.shape[-1], spans)
        output_THK, normaliser_HT = attend(*parts, spans, scale)
        ctx.save_for_backward(qkv_TC, cos_TK, sin_TK, output_THK, normaliser_HT)
        ctx.heads, ctx.spans, ctx.scale = heads, spans, scale
        return output_THK.view(output_THK.shape[0], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TC: Tensor) -> tuple[Tensor | None, ...]:
        qkv_TC, cos_TK, sin_TK, output_THK, normaliser_HT = ctx.saved_tensors
        size = cos_TK.shape[-1]
        back_TC = torch.empty_like(qkv_TC)
        gradients: Three = _parts(back_TC, ctx.heads, size)
        keys_S = ctx.spans.keys_S
        if keys_S is not None:
            joint_SNK = qkv_TC.new_zeros(len(keys_S), 2 * ctx.heads[1], size)
            gk_SJK, gv_SJK = torch.split(joint_SNK, ctx.heads[1], 1)
            gradients = (gradients[0], gk_SJK, gv_SJK)
        attend_backward(
            grad_TC.reshape(output_THK.shape),
            _read_by_all(qkv_TC, ctx.heads, size, ctx.spans),
            output_THK,
            normaliser_HT,
            ctx.spans,
            ctx.scale,
            gradients,
        )
        if keys_S is not None:
            own_TC = back_TC[:, ctx.heads[0] * size :].zero_()
            own_TC.index_add_(0, keys_S, joint_SNK.flatten(1))
        rotate_(back_TC, cos_TK, sin_TK, sum(ctx.heads), backward=True)
        return back_TC, None, None, None, None, None


def _read_by_all(
    qkv_TC: Tensor, heads: tuple[int, int], size: int, spans: Spans
) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v, those of a shared beginning handed to each document that reads them."""
    q_THK, k_TJK, v_TJK = _parts(qkv_TC, heads, size)
    if spans.keys_S is None:
        return q_THK, k_TJK, v_TJK
    joint_SC = qkv_TC[:, heads[0] * size :][spans.keys_S]
    k_SJK, v_SJK = torch.split(joint_SC.view(len(joint_SC), -1, size), heads[1], 1)
    return q_THK, k_SJK, v_SJK


def _parts(qkv_TC: Tensor, heads: tuple[int, int], size: int) -> tuple[Tensor, Tensor, Tensor]:
    qkv_TNK = qkv_TC.view(qkv_TC.shape[0], -1, size)
    q_THK, k_TJK, v_TJK = torch.split(qkv_TNK, [heads[0], heads[1], heads[1]], 1)
    return q_THK, k_TJK, v_TJK
