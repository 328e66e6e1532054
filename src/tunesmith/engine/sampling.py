"""Which token comes next: the most likely one, or one drawn by number.

    logits [N, V] + (text, step) of each row  ──choose──>  tokens, log-probabilities

A draw is a function of (seed, text, step): no generator is kept, so what a text gets depends on no
neighbour and on no order. The log-probability is the model's own, before temperature, top k and
nucleus: what a teacher-forced forward pass over the finished text gives.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_LIKELIEST = 256
"""Tokens among which a nucleus is looked for first; sorting a whole vocabulary is slow."""

_64 = (1 << 64) - 1


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token.

    Attributes:
        max_new_tokens: the most tokens to generate.
        stop_ids: tokens that end an answer.
        temperature: 0 takes the most likely token; else logits are divided by it.
        top_p: sample from the smallest set of tokens that holds this much probability
            (Holtzman et al. 2020), of what `top_k` has left.
        top_k: sample from so many of the likeliest tokens; 0: from all.
        beams: how many beginnings are pursued side by side; 1: only the one that is chosen.
        seed: what draws depend on, beside the number of the text and the step.
    """

    max_new_tokens: int
    stop_ids: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    beams: int = 1
    seed: int = 0


def choose(
    logits_NV: Tensor, sampling: Sampling, draws: Sequence[tuple[int, int]]
) -> tuple[list[int], list[float]]:
    """Return the next token of each row, and its log-probability.

    Args:
        draws: number of the text and of the step, for each row.
    """
    logits_NV = logits_NV.float()
    if sampling.temperature == 0:
        chosen_N = logits_NV.argmax(-1)
    else:
        probs_NV = torch.softmax(logits_NV / sampling.temperature, -1)
        uniform = [_uniform(sampling.seed, text, step) for text, step in draws]
        uniform_N = torch.tensor(uniform, dtype=torch.float64).to(probs_NV.device)
        chosen_N = _drawn(probs_NV, uniform_N, sampling)
    picked_N = logits_NV.gather(1, chosen_N[:, None])[:, 0]
    return chosen_N.tolist(), (picked_N - logits_NV.logsumexp(-1)).tolist()


def _drawn(probs_NV: Tensor, uniform_N: Tensor, sampling: Sampling) -> Tensor:
    vocabulary = probs_NV.shape[1]
    if sampling.top_k:
        likeliest, ids = probs_NV.topk(min(sampling.top_k, vocabulary), dim=-1)
        return _from_nucleus(likeliest, ids, uniform_N, sampling.top_p)
    if sampling.top_p >= 1.0:
        return _inverse(probs_NV.double(), uniform_N)
    likeliest, ids = probs_NV.topk(min(_LIKELIEST, vocabulary), dim=-1)
    found = likeliest.double().sum(-1) >= sampling.top_p
    if bool(found.all()):
        return _from_nucleus(likeliest, ids, uniform_N, sampling.top_p, whole=1.0)
    ordered, ids = probs_NV.sort(descending=True, stable=True)
    return _from_nucleus(ordered, ids, uniform_N, sampling.top_p, whole=1.0)


def _from_nucleus(
    ordered_NV: Tensor, ids_NV: Tensor, uniform_N: Tensor, top_p: float, whole: float | None = None
) -> Tensor:
    """Draw among the first tokens that hold `top_p` of `whole` (None: of what is given)."""
    wide = ordered_NV.double()
    total = wide.sum(-1, keepdim=True) if whole is None else whole
    outside = wide.cumsum(-1) - wide >= top_p * total
    place_N = _inverse(wide.masked_fill(outside, 0.0), uniform_N)
    return ids_NV.gather(1, place_N[:, None])[:, 0]


def _inverse(weights_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """The first token at which the running sum exceeds its share: never one of weight zero."""
    sums_NV = weights_NV.cumsum(-1)
    targets_N1 = (uniform_N * sums_NV[:, -1])[:, None]
    last_N = weights_NV.shape[1] - 1 - (weights_NV > 0).flip(1).to(torch.uint8).argmax(-1)
    return torch.minimum(torch.searchsorted(sums_NV, targets_N1, right=True)[:, 0], last_N)


def _uniform(seed: int, text: int, step: int) -> float:
    """A number in [0, 1) from three whole numbers: SplitMix64 (Steele et al. 2014) over them."""
    state = 0
    for number in (seed, text, step):
        state = _mixed((state ^ (number & _64)) + 0x9E3779B97F4A7C15 & _64)
    return (state >> 11) / (1 << 53)


def _mixed(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _64
    return z ^ z >> 31
