"""Beginnings that documents of a batch have in common, so that each is computed once.

    system prompt A, question 1           A ─┬─ question 1
    system prompt A, question 2     ──>      ├─ question 2        rows that are computed
    system prompt A, question 2, x           │           └─ x
    system prompt B, question 3           B ─── question 3

What a causal model makes of a token depends on the tokens before it and on nothing else. So where
documents begin alike, the rows of the beginning are the same rows: they are computed once, the keys
and values of attention are handed to every document that begins with them, and the gradients of all
come back to them added up. The loss and its gradients are those of the documents one by one.

Documents are sorted; each then has its longest beginning in common with the one before it, so all
beginnings of the batch, also those of some documents only, are found in one sweep.

Shapes: T tokens of the batch, M rows that are computed, N documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from tunesmith.data.batch import Stream
from tunesmith.kernels.spans import Rows

WORTH = 0.02
"""Share of the tokens that must fall away: handing keys and values on costs about half of that."""


@dataclass(frozen=True)
class Sharing:
    """A batch as the tree of its beginnings.

    Attributes:
        kept_M: which tokens of the batch are computed.
        ids_M, positions_M: these tokens, and their places in their documents.
        place_T: for each token of the batch, in the batch's own order, its row among the M.
        rows: which documents read which rows, for attention.
    """

    kept_M: Tensor
    ids_M: Tensor
    positions_M: Tensor
    place_T: Tensor
    rows: Rows


def shared_beginnings(stream: Stream) -> Sharing | None:
    """Return the tree of a batch, or None where sharing is not worth its cost."""
    found = _in_order(stream)
    return None if found is None else _tree(stream, stream.cu_seqlens.tolist(), *found)


def begun(stream: Stream) -> tuple[int, ...]:
    """Return how many of its first tokens each document shares; nothing where none are shared."""
    found = _in_order(stream)
    if found is None:
        return ()
    common = dict(zip(*found, strict=True))
    return tuple(common[document] for document in range(len(common)))


def _in_order(stream: Stream) -> tuple[list[int], list[int]] | None:
    """Sort the documents; return them, and what each has in common with the one before it."""
    ends = stream.cu_seqlens.tolist()
    if len(ends) < 3:
        return None
    tokens = stream.ids_T.tolist()
    documents = [tokens[first:last] for first, last in pairwise(ends)]
    order = sorted(range(len(documents)), key=documents.__getitem__)
    common = [0, *(common_beginning(documents[a], documents[b]) for a, b in pairwise(order))]
    return None if sum(common) < WORTH * len(tokens) else (order, common)


def common_beginning(one: list[int], other: list[int]) -> int:
    """Length of the longest common beginning."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def _tree(stream: Stream, ends: list[int], order: list[int], common: list[int]) -> Sharing:
    kept: list[int] = []
    rows_of: list[list[int]] = [[] for _ in order]
    own: list[int] = []
    before: list[int] = []
    for document, length in zip(order, common, strict=True):
        first, last = ends[document] + length, ends[document + 1]
        rows = before[:length] + list(range(len(kept), len(kept) + last - first))
        kept.extend(range(first, last))
        own.append(last - first)
        rows_of[document] = before = rows
    device = stream.ids_T.device
    kept_M = torch.tensor(kept, device=device)
    keys = [row for document in order for row in rows_of[document]]
    lengths = [ends[document + 1] - ends[document] for document in order]
    return Sharing(
        kept_M,
        stream.ids_T[kept_M],
        stream.positions_T[kept_M],
        torch.tensor([row for rows in rows_of for row in rows], device=device),
        Rows(_ends(lengths), _ends(own), torch.tensor(keys, device=device)),
    )


def _ends(lengths: list[int]) -> Tensor:
    ends = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    ends[1:] = torch.cumsum(torch.tensor(lengths), 0)
    return ends
