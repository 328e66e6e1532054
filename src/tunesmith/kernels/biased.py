"""Attention over documents of one row whose scores have a bias by place, such as T5's.

    q, k, v [1, H, T, K] + bias [1, H, L, L]  ──>  [1, H, T, K]

Only here documents are padded: rows are brought side by side for the scores and back again, so that
whatever is computed row by row before and after has no padding. Documents of about one length go
together (`groups`), so that one long text does not make a row of scores of every short one. It uses
PyTorch's scaled dot product, and works on every device.

Shapes: H heads, T tokens, K head size, N documents, L longest document.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tunesmith.kernels.spans import Spans

_NEAR = 0.75
"""A document stands in a group if it has at least this share of the longest one's tokens."""


def biased_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: Spans,
    bias: Tensor,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return softmax(scale * q k^T + bias) v within each document.

    Args:
        q, k, v: [1, H, T, K], all of the same rows.
        spans: from `document_spans`; no beginnings are shared, and no window is set.
        bias: [1, H, L, L] at least: of query and key by their places in a document.
        scale: factor of the scores; None is 1/sqrt(K).
        dropout: probability to drop a weight of attention.

    Returns [1, H, T, K]. Raises ValueError where the spans are of another kind.
    """
    if spans.keys_S is not None or spans.window is not None or spans.cu_own is not spans.cu_seqlens:
        raise ValueError("a bias by place is for documents that see all of themselves")
    lengths = torch.diff(spans.cu_seqlens).tolist()
    parts = [
        _one_group(q, k, v, spans, bias, torch.tensor(group, device=q.device), scale, dropout)
        for group in groups(lengths)
    ]
    rows_T = torch.cat([rows for rows, _ in parts])
    output_THK = torch.cat([output for _, output in parts]).index_select(0, rows_T.argsort())
    return output_THK.transpose(0, 1)[None]


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


def _one_group(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: Spans,
    bias: Tensor,
    group_N: Tensor,
    scale: float | None,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Return the rows of these documents and their outputs, `[T, H, K]`."""
    starts_N = spans.cu_seqlens[:-1].long()[group_N]
    lengths_N = torch.diff(spans.cu_seqlens).long()[group_N]
    longest = int(lengths_N.max())
    places_L = torch.arange(longest, device=q.device)
    real_NL = places_L < lengths_N[:, None]
    rows_NL = torch.where(real_NL, starts_N[:, None] + places_L, 0)

    seen_NLL = real_NL[:, None, :].expand(-1, longest, -1)
    if spans.causal:
        seen_NLL = seen_NLL & (places_L <= places_L[:, None])
    bias_NHLL = bias[..., :longest, :longest].to(q.dtype)
    bias_NHLL = bias_NHLL.masked_fill(~seen_NLL[:, None], -torch.inf)
    q_NHLK, k_NHLK, v_NHLK = (_side_by_side(part, rows_NL) for part in (q, k, v))
    output_NHLK = torch.nn.functional.scaled_dot_product_attention(
        q_NHLK,
        k_NHLK,
        v_NHLK,
        attn_mask=bias_NHLL,
        dropout_p=dropout,
        scale=scale,
    )
    output_THK = output_NHLK.transpose(1, 2).flatten(0, 1)[real_NL.flatten()]
    return rows_NL[real_NL], output_THK


def _side_by_side(part: Tensor, rows_NL: Tensor) -> Tensor:
    """`[1, H, T, K]` to `[N, H, L, K]`; what stands in the padding is not looked at."""
    part_XHK = part[0].transpose(0, 1).index_select(0, rows_NL.flatten())
    return part_XHK.view(*rows_NL.shape, *part_XHK.shape[1:]).transpose(1, 2)
