"""Dropout of which nothing is kept: what is dropped is a function of a seed and of the place.

    Dropout.drawn(p)        a seed from PyTorch's global generator
    dropout.applied(x)      x with the dropped elements at zero, the same ones at every call
    dropout(x, p)           the same with gradients

So the backward pass drops again what the forward pass dropped, and no mask is stored. On a CPU the
numbers come from a hash, many at a time in the compiled kernels, where PyTorch draws one after
another; both forms here give the same ones. On a CUDA device they come from its own generator,
seeded anew each time.

Source: Srivastava et al., 2014, JMLR 15. Any shapes. It knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import native

_WORDS = 1 << 32


@dataclass(frozen=True)
class Dropout:
    """What is dropped: wherever the hash of the place is below `threshold`, of 2^32.

    All else is multiplied by `factor`. `low` and `high` are the halves of the seed.
    """

    low: int = 0
    high: int = 0
    threshold: int = 0
    factor: float = 1.0

    @classmethod
    def drawn(cls, probability: float) -> Dropout:
        """Return one with a seed from PyTorch's global generator; none is drawn for 0."""
        if probability == 0.0:
            return NONE_DROPPED
        low, high = torch.randint(_WORDS, (2,)).tolist()
        threshold = min(round(probability * _WORDS), _WORDS - 1)
        return cls(low, high, threshold, 1.0 / max(1.0 - probability, 1.0 / _WORDS))

    @property
    def words(self) -> tuple[int, int, int, float]:
        """What the compiled kernels are told."""
        return self.low, self.high, self.threshold, self.factor

    def applied(self, x: Tensor) -> Tensor:
        """Return x, contiguous, with its dropped elements at zero and the others larger."""
        if not self.threshold:
            return x
        x = x.contiguous()
        if native.usable(x):
            out = torch.empty_like(x)
            native.call("dropout", x, out, x.numel(), *self.words, dtype=x.dtype)
            return out
        return x * self._keeps(x) * self.factor

    def keeps_weights(self, queries: Tensor, keys: Tensor, heads: int) -> Tensor:
        """Say which weights of attention are kept, [heads, queries, keys], by their places."""
        head = torch.arange(heads, device=queries.device)[:, None]
        rows_HQ = _mixed(self.low ^ _word((queries * heads + head) * 0x9E3779B1)) ^ self.high
        return _mixed(_word(rows_HQ[..., None] + keys * 0x85EBCA77)) >= self.threshold

    def _keeps(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            seeded = torch.Generator(x.device).manual_seed(self.high << 31 ^ self.low)
            share = 1.0 - self.threshold / _WORDS
            return torch.empty_like(x, dtype=torch.float32).bernoulli_(share, generator=seeded) > 0
        places = torch.arange(x.numel()).view(x.shape)
        mixed = _mixed(self.low ^ _word(places * 0x9E3779B1)) ^ self.high
        return _mixed(mixed) >= self.threshold


NONE_DROPPED = Dropout()


def dropout(x: Tensor, probability: float) -> Tensor:
    """Return x with a share of its elements set to zero, and the others larger by as much."""
    if probability == 0.0:
        return x
    dropped: Tensor = _Dropped.apply(x, Dropout.drawn(probability))  # type: ignore[no-untyped-call]
    return dropped


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, drawn: Dropout) -> Tensor:
        ctx.drawn = drawn
        return drawn.applied(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.drawn.applied(grad), None


def _word(whole: Tensor) -> Tensor:
    """Keep the lowest 32 bits."""
    return whole & (_WORDS - 1)


def _mixed(words: Tensor) -> Tensor:
    """Good bits of any 32 (C. Wellons, "Prospecting for hash functions", 2018)."""
    words = _word((words ^ (words >> 16)) * 0x7FEB352D)
    words = _word((words ^ (words >> 15)) * 0x846CA68B)
    return words ^ (words >> 16)
