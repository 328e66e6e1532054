"""What the engine reads: encoded records, laid end to end without padding.

    Encoded (one record)  ──collate──>  Batch (several, flat and ragged)

A batch has named streams (`text`; `source` and `target`; later `chosen`/`rejected`). In each, the
tokens of N documents lie one after another in one row of T tokens; `cu_seqlens` says where each
begins. Targets are shifted here, once: position i predicts `targets_T[i]`, with `weights_T[i]`.
Classes of tokens are not shifted: `classes_T[i]` is that of token i, or `NO_CLASS`. Types of tokens
say in which of two texts each stands, for models that tell these apart.

Shapes: T tokens of the batch, N documents. This module knows no tokenizer, task or model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

NO_CLASS = -100
"""Stands for a token whose class is not learnt; PyTorch's cross-entropy passes over it."""

NO_WORD = -1
"""Stands for a token that belongs to no word of the text: one of the tokenizer's own."""


@dataclass(frozen=True)
class Cut:
    """What was cut from a record to make it fit: which side, how many tokens, how many learnt."""

    side: str
    tokens: int
    targets: int


@dataclass(frozen=True)
class EncodedStream:
    """Token ids of one document.

    `weights[i]` is the weight with which token i is *learnt* (0: it is only read); None where
    nothing is learnt token by token. The first token is never learnt: nothing precedes it.
    `classes[i]` is what token i is to be called, or `NO_CLASS`; None where no token is. `types[i]`
    is its type; None where all are of type 0. `words[i]` is the number of its word, or `NO_WORD`;
    None where words do not matter.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    classes: tuple[int, ...] | None = None
    types: tuple[int, ...] | None = None
    words: tuple[int, ...] | None = None

    def learnt(self) -> list[bool]:
        """Return for each token whether something of it is learnt."""
        if self.classes is not None:
            return [found != NO_CLASS for found in self.classes]
        weights = self.weights or (0.0,) * len(self.ids)
        return [place > 0 and bool(weight) for place, weight in enumerate(weights)]

    def trained(self) -> int:
        """Return how many tokens are learnt."""
        return sum(self.learnt())


@dataclass(frozen=True)
class Encoded:
    """One record, encoded: its streams, its label, and what had to be cut.

    A record that became several examples (a long document) has `continues` on all but its first.
    """

    streams: Mapping[str, EncodedStream]
    label: int | float | tuple[float, ...] | None = None
    cut: Cut | None = None
    continues: bool = False

    @property
    def length(self) -> int:
        """Tokens over all streams."""
        return sum(len(stream.ids) for stream in self.streams.values())


@dataclass(frozen=True)
class Stream:
    """Documents laid end to end.

    `targets_T` and `weights_T` are None where no token is learnt, `classes_T` where none is called
    something, `types_T` where all tokens are of type 0.
    """

    ids_T: Tensor
    positions_T: Tensor
    cu_seqlens: Tensor
    targets_T: Tensor | None = None
    weights_T: Tensor | None = None
    classes_T: Tensor | None = None
    types_T: Tensor | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens in each document."""
        return torch.diff(self.cu_seqlens).tolist()

    def learnt(self) -> tuple[Tensor, Tensor]:
        """Return the rows at which a token is told, `[N]`, and which one that is.

        It is the next one, or, where tokens were hidden, what stood in that very place.
        """
        if self.weights_T is not None and self.targets_T is not None:
            rows_N = self.weights_T.nonzero()[:, 0]
            return rows_N, self.targets_T[rows_N]
        if self.classes_T is None:
            raise ValueError("this stream does not say which tokens are learnt")
        rows_N = (self.classes_T != NO_CLASS).nonzero()[:, 0]
        return rows_N, self.classes_T[rows_N]

    def to(self, device: torch.device | str) -> Stream:
        """Return the stream on `device`."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return Stream(
            self.ids_T.to(device),
            self.positions_T.to(device),
            self.cu_seqlens.to(device),
            move(self.targets_T),
            move(self.weights_T),
            move(self.classes_T),
            move(self.types_T),
        )


@dataclass(frozen=True)
class Batch:
    """Several encoded records. `indices` are their places in the data set they came from.

    Where several tasks learn at once, all are of the task `member`, and `share` is that task's
    share of the records of the step.
    """

    streams: Mapping[str, Stream]
    labels: Tensor | None = None
    indices: tuple[int, ...] = field(default=())
    member: str = ""
    share: float = 1.0

    def __len__(self) -> int:
        return len(next(iter(self.streams.values())).cu_seqlens) - 1

    @property
    def text(self) -> Stream:
        """The text or, where a target is written from a source, the target."""
        return self.streams["target" if self.source is not None else "text"]

    @property
    def source(self) -> Stream | None:
        """What an encoder reads before the target is written; None where there is one text."""
        return self.streams.get("source")

    @property
    def whole(self) -> Stream:
        """All documents of all streams, stream after stream; the text, where it is the only one."""
        streams = list(self.streams.values())
        if len(streams) == 1:
            return streams[0]
        lengths = torch.cat([torch.diff(stream.cu_seqlens) for stream in streams])
        cu_seqlens = lengths.new_zeros(len(lengths) + 1)
        cu_seqlens[1:] = torch.cumsum(lengths, 0)
        ids_T = torch.cat([stream.ids_T for stream in streams])
        return Stream(ids_T, torch.cat([stream.positions_T for stream in streams]), cu_seqlens)

    @property
    def tokens(self) -> int:
        """Tokens over all streams."""
        return sum(stream.ids_T.numel() for stream in self.streams.values())

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`."""
        return replace(
            self,
            streams={name: stream.to(device) for name, stream in self.streams.items()},
            labels=None if self.labels is None else self.labels.to(device),
        )


def collate(examples: Sequence[Encoded], indices: Sequence[int] = ()) -> Batch:
    """Lay `examples` end to end.

    Args:
        examples: at least one; all with the same streams.
        indices: the place of each in its data set, kept for per-example results.
    """
    names = examples[0].streams
    labels = [example.label for example in examples]
    return Batch(
        {name: _join([example.streams[name] for example in examples]) for name in names},
        None if labels[0] is None else torch.tensor(labels),
        tuple(indices),
    )


def _join(documents: Sequence[EncodedStream]) -> Stream:
    lengths = torch.tensor([len(document.ids) for document in documents], dtype=torch.int32)
    cu_seqlens = torch.zeros(len(documents) + 1, dtype=torch.int32)
    cu_seqlens[1:] = torch.cumsum(lengths, 0)
    ids_T = _end_to_end((document.ids for document in documents), np.int64)
    positions_T = torch.cat([torch.arange(len(document.ids)) for document in documents])
    types_T = _types(documents)
    if documents[0].classes is not None:
        classes_T = _end_to_end((document.classes or () for document in documents), np.int64)
        return Stream(ids_T, positions_T, cu_seqlens, classes_T=classes_T, types_T=types_T)
    if documents[0].weights is None:
        return Stream(ids_T, positions_T, cu_seqlens, types_T=types_T)
    learnt_T = _end_to_end((document.weights or () for document in documents), np.float32)
    starts = cu_seqlens[:-1].long()
    learnt_T[starts] = 0.0
    targets_T, weights_T = torch.roll(ids_T, -1), torch.roll(learnt_T, -1)
    return Stream(ids_T, positions_T, cu_seqlens, targets_T, weights_T, types_T=types_T)


def _types(documents: Sequence[EncodedStream]) -> Tensor | None:
    if all(document.types is None for document in documents):
        return None
    return torch.tensor([t for d in documents for t in d.types or (0,) * len(d.ids)])


def _end_to_end(parts: Iterable[Sequence[float]], kind: type[np.generic]) -> Tensor:
    """Lay numbers end to end; six times as fast as a tensor made of a list."""
    return torch.from_numpy(np.fromiter(chain.from_iterable(parts), dtype=kind))
