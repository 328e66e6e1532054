"""Attention block by block, forward and backward: the scores of a block at a time, never all.

    attend           q, k, v ──> output, log-sum-exp of each query's scores
    attend_backward  the scores again, from those two numbers per query ──> gradients

Weights may be dropped at random (`dropout.py`); which ones is found again in the backward pass.

Compiled, a block's scores stay in the cache of the core that works on it, and the matrix products
are those of the BLAS in the process, on the tensors as they lie. Without it, or in another number
format, the same is done by batched products of PyTorch.

Shapes: H query heads, J key heads (H = J * G), T tokens, Q queries of a block, K head size.
It knows no autograd and no model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tunesmith.kernels import native
from tunesmith.kernels.dropout import NONE_DROPPED, Dropout
from tunesmith.kernels.spans import Block, Spans

Three = tuple[Tensor, Tensor, Tensor]


def attend(
    q_THK: Tensor,
    k_TJK: Tensor,
    v_TJK: Tensor,
    spans: Spans,
    scale: float,
    dropout: Dropout = NONE_DROPPED,
) -> tuple[Tensor, Tensor]:
    """Return the output [T, H, K] and the log-sum-exp of each query's scores [H, T]."""
    if not _compiled_takes(q_THK, k_TJK, v_TJK):
        return attend_plainly(q_THK, k_TJK, v_TJK, spans, scale, dropout)
    output_THK = q_THK.new_empty(q_THK.shape)
    normaliser_HT = q_THK.new_empty(q_THK.shape[1], q_THK.shape[0])
    native.call(
        "attention",
        native.product(),
        q_THK,
        k_TJK,
        v_TJK,
        output_THK,
        normaliser_HT,
        spans.low_T,
        spans.high_T,
        spans.blocks_N4,
        len(spans.blocks),
        *_sizes(q_THK, k_TJK, spans),
        scale,
        *dropout.words,
    )
    return output_THK, normaliser_HT


def attend_backward(
    grad_THK: Tensor,
    inputs: Three,
    output_THK: Tensor,
    normaliser_HT: Tensor,
    spans: Spans,
    scale: float,
    gradients: Three,
    dropout: Dropout = NONE_DROPPED,
) -> None:
    """Write the gradients of the inputs q, k and v into `gradients`."""
    alike = all(x.stride() == g.stride() for x, g in zip(inputs, gradients, strict=True))
    if not alike or not _compiled_takes(*inputs):
        attend_plainly_backward(
            grad_THK, inputs, output_THK, normaliser_HT, spans, scale, gradients, dropout
        )
        return
    native.call(
        "attention_backward",
        native.product(),
        *inputs,
        output_THK,
        normaliser_HT,
        grad_THK.contiguous(),
        *gradients,
        spans.low_T,
        spans.high_T,
        spans.blocks_N4,
        spans.segments_N2,
        len(spans.segments),
        *_sizes(inputs[0], inputs[1], spans),
        scale,
        *dropout.words,
    )


def _compiled_takes(q_THK: Tensor, k_TJK: Tensor, v_TJK: Tensor) -> bool:
    """Say whether the compiled form reads these: float32, each token's heads side by side."""
    return (
        native.usable(q_THK[:0])
        and native.product() is not None
        and q_THK.dtype == torch.float32
        and all(x.stride(1) == x.shape[2] and x.stride(2) == 1 for x in (q_THK, k_TJK, v_TJK))
        and k_TJK.stride() == v_TJK.stride()
    )


def _sizes(q_THK: Tensor, k_TJK: Tensor, spans: Spans) -> tuple[int, ...]:
    rows, heads, size = q_THK.shape
    key_heads = k_TJK.shape[1]
    return rows, heads, key_heads, size, q_THK.stride(0), k_TJK.stride(0), spans.largest


def attend_plainly(
    q_THK: Tensor,
    k_TJK: Tensor,
    v_TJK: Tensor,
    spans: Spans,
    scale: float,
    dropout: Dropout = NONE_DROPPED,
) -> tuple[Tensor, Tensor]:
    """Return the output [T, H, K] and the log-sum-exp of each query's scores [H, T]."""
    rows_in_all, heads, size = q_THK.shape
    output_THK = q_THK.new_empty(rows_in_all, heads, size)
    normaliser_HT = q_THK.new_empty(heads, rows_in_all, dtype=softmax_dtype(q_THK))
    for block in spans.blocks:
        rows, keys = slice(block.first, block.last), slice(block.key_first, block.key_last)
        scores_HQT = _scores(q_THK[rows], k_TJK[keys], scale)
        _softmax_(scores_HQT, normaliser_HT[:, rows], spans, block)
        _drop_(scores_HQT, dropout, block)
        _weighted(scores_HQT.to(v_TJK.dtype), v_TJK[keys], output_THK[rows])
    return output_THK, normaliser_HT


def attend_plainly_backward(
    grad_THK: Tensor,
    inputs: Three,
    output_THK: Tensor,
    normaliser_HT: Tensor,
    spans: Spans,
    scale: float,
    gradients: Three,
    dropout: Dropout = NONE_DROPPED,
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
        _drop_(back_HQT, dropout, block)
        _softmax_backward_(
            scores_HQT, back_HQT, normaliser_HT[:, rows], delta_HT[:, rows], spans, block
        )
        _drop_(scores_HQT, dropout, block)
        weights_HQT, back_HQT = scores_HQT.to(q_THK.dtype), back_HQT.to(q_THK.dtype)
        _weighted(back_HQT, k_TJK[keys], gq_THK[rows], scale)
        gv_TJK[keys] += _gathered(weights_HQT, grad_THK[rows], groups)
        gk_TJK[keys] += _gathered(back_HQT, q_THK[rows], groups).mul_(scale)
    for target, total in zip(gradients[1:], (gk_TJK, gv_TJK), strict=True):
        if target is not total:
            target.copy_(total)


def softmax_dtype(q_THK: Tensor) -> torch.dtype:
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
    return out.view(heads, rows, -1).to(softmax_dtype(q_QHK))


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
    scores_HQT.masked_fill_(~spans.mask(block), -torch.inf)
    normaliser_HQ.copy_(scores_HQT.logsumexp(-1))
    scores_HQT.sub_(normaliser_HQ[..., None]).exp_()


def _drop_(weights_HQT: Tensor, dropout: Dropout, block: Block) -> None:
    if dropout.threshold:
        queries = torch.arange(block.first, block.last, device=weights_HQT.device)
        keys = torch.arange(block.key_first, block.key_last, device=weights_HQT.device)
        kept_HQT = dropout.keeps_weights(queries, keys, len(weights_HQT))
        weights_HQT.mul_(kept_HQT).mul_(dropout.factor)


def _softmax_backward_(
    scores_HQT: Tensor,
    back_HQT: Tensor,
    normaliser_HQ: Tensor,
    delta_HQ: Tensor,
    spans: Spans,
    block: Block,
) -> None:
    """In place: scores become attention weights, `back` (grad v^T) the gradient of the scores."""
    scores_HQT.masked_fill_(~spans.mask(block), -torch.inf)
    scores_HQT.sub_(normaliser_HQ[..., None]).exp_()
    back_HQT.sub_(delta_HQ[..., None]).mul_(scores_HQT)
