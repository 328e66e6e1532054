"""Who sees whom in a packed row, and the blocks in which that is worked through.

    causal, three documents of 3, 2 and 4 tokens       range of keys of each query
    d1 x . .                                            [0,1) [0,2) [0,3)
    d2       x .                                        [3,4) [3,5)
    d3           x . . .                                [5,6) [5,7) [5,8) [5,9)

Where documents begin alike, the rows of the beginning are computed once (`Rows`): a document then
has queries for its own rows only, the last ones, and keys for all of its tokens.

Made once a batch and used by every layer. It knows no attention, only places in a row of T tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

BLOCK_ROWS = 64
"""Most queries of one block: more saves calls, fewer saves scores that no query may see. Also the
most that several documents share, since their mutual scores are thrown away."""

BLOCK_SCORES = 1 << 17
"""Scores of one block: they stay in a core's own cache."""


@dataclass(frozen=True)
class Block:
    """Queries `[first, last)` of the row and the keys `[key_first, key_last)` that they may see."""

    first: int
    last: int
    key_first: int
    key_last: int


@dataclass(frozen=True)
class Rows:
    """Documents whose queries and keys are not the same rows.

    Either they have beginnings in common, of which each is computed once; or they read another row,
    as the target of a pair reads its source: then every query sees all keys of its document.

    Attributes:
        cu_seqlens: where each document begins in the row of S keys, and the end.
        cu_own: where its own rows begin among the T that are computed; they are its last ones.
        keys_S: for each key the computed row whose key and value it has; None where keys are given
            as a row of their own.
    """

    cu_seqlens: Tensor
    cu_own: Tensor
    keys_S: Tensor | None


@dataclass(frozen=True)
class Spans:
    """Who sees whom in a packed row.

    Attributes:
        cu_seqlens: where the keys of each document begin, and the end.
        cu_own: where its queries begin; the same, unless beginnings are shared.
        keys_S: the computed row of each key; None where the keys that come are the row.
        low_T, high_T: bounds of the keys that query t sees: `low <= key < high` (int32).
        blocks: every query once, in order.
        segments: runs of blocks `[first, last)` that share no keys with any other.
    """

    cu_seqlens: Tensor
    cu_own: Tensor
    keys_S: Tensor | None
    causal: bool
    window: int | None
    low_T: Tensor
    high_T: Tensor
    blocks: tuple[Block, ...]
    segments: tuple[tuple[int, int], ...]

    @cached_property
    def longest(self) -> tuple[int, int]:
        """Most queries and most keys of any document."""
        return int(torch.diff(self.cu_own).max()), int(torch.diff(self.cu_seqlens).max())

    @cached_property
    def blocks_N4(self) -> Tensor:
        """The blocks as a table of whole numbers."""
        rows = [(b.first, b.last, b.key_first, b.key_last) for b in self.blocks]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)

    @cached_property
    def segments_N2(self) -> Tensor:
        """The segments as a table of whole numbers."""
        return torch.tensor(self.segments, dtype=torch.int64).reshape(-1, 2)

    @cached_property
    def largest(self) -> int:
        """Most scores of any block."""
        sizes = ((b.last - b.first) * (b.key_last - b.key_first) for b in self.blocks)
        return max(sizes, default=0)

    def mask(self, block: Block) -> Tensor:
        """Return which keys each query of a block sees, [queries, keys], boolean."""
        keys = torch.arange(block.key_first, block.key_last, device=self.low_T.device)
        low, high = self.low_T[block.first : block.last], self.high_T[block.first : block.last]
        return (keys >= low[:, None]) & (keys < high[:, None])


def document_spans(
    row: Tensor | Rows, *, causal: bool, window: int | None = None, block_rows: int = BLOCK_ROWS
) -> Spans:
    """Work out the ranges and blocks of a packed row.

    Args:
        row: where each document begins, and the end: N + 1 whole numbers from 0 to T; or the
            documents with the beginnings that they share, where attention is causal, or with the
            keys of another row, where it is not.
        causal: each query sees the keys up to its own place.
        window: how many keys back a query sees, itself included (sliding-window attention); for
            attention in both directions, how far to either side.
        block_rows: most queries of one block.

    Raises:
        ValueError: beginnings are shared, and attention looks ahead.
    """
    rows = row if isinstance(row, Rows) else None
    if rows is not None and rows.keys_S is not None and not causal:
        raise ValueError("what comes after a shared beginning differs, so nothing may look ahead")
    cu_seqlens, cu_own = (rows.cu_seqlens, rows.cu_own) if rows else (row, row)
    assert isinstance(cu_seqlens, Tensor)
    assert isinstance(cu_own, Tensor)
    low_T, high_T = _ranges(cu_seqlens, cu_own, causal, window)
    lows, highs = low_T.tolist(), high_T.tolist()
    blocks: list[Block] = []
    segments: list[tuple[int, int]] = []
    for first, last in _shared(cu_own.tolist(), block_rows):
        begin = len(blocks)
        keys = max(highs[first:last]) - min(lows[first:last])
        limit = min(block_rows, max(16, BLOCK_SCORES // keys))
        pieces = math.ceil((last - first) / limit)
        cuts = [first + (last - first) * piece // pieces for piece in range(pieces + 1)]
        blocks += (Block(a, b, min(lows[a:b]), max(highs[a:b])) for a, b in pairwise(cuts))
        segments.append((begin, len(blocks)))
    keys_S = rows.keys_S if rows else None
    return Spans(
        cu_seqlens, cu_own, keys_S, causal, window, low_T, high_T, tuple(blocks), tuple(segments)
    )


def _ranges(
    cu_seqlens: Tensor, cu_own: Tensor, causal: bool, window: int | None
) -> tuple[Tensor, Tensor]:
    """Bounds of the keys that each query sees; a document's queries are its last tokens."""
    own_N = torch.diff(cu_own).long()
    starts_T, ends_T = (
        torch.repeat_interleave(bound.long(), own_N) for bound in (cu_seqlens[:-1], cu_seqlens[1:])
    )
    own_ends_T = torch.repeat_interleave(cu_own[1:].long(), own_N)
    places_T = torch.arange(len(own_ends_T), device=cu_own.device) - own_ends_T + ends_T
    low_T, high_T = starts_T, places_T + 1 if causal else ends_T
    if window is not None:
        low_T = torch.maximum(low_T, places_T - (window - 1))
        high_T = torch.minimum(high_T, places_T + window)
    return low_T.int().contiguous(), high_T.int().contiguous()


def _shared(bounds: list[int], rows: int) -> list[tuple[int, int]]:
    """Group neighbouring documents that are `rows` together at most; empty ones vanish."""
    groups: list[tuple[int, int]] = []
    for first, last in pairwise(bounds):
        if groups and last - groups[-1][0] <= rows:
            groups[-1] = (groups[-1][0], last)
        elif last > first:
            groups.append((first, last))
    return groups
