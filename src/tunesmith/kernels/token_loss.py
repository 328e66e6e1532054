"""Log-probabilities of tokens, and their cross-entropy, without ever holding all logits.

    logits_NV = softcap(scale * (hidden_ND weight_VD^T + bias_V))
    logprobs_N = log softmax(logits_NV)[target]

The rows are taken in chunks: the logits of a chunk live in the cache and are gone after it.
Two paths, equal in value and gradient:

- `linear_cross_entropy`: the weights of the tokens are known beforehand, so one pass computes the
  loss and its gradient with respect to the hidden states. For training; the logits are formed once.
- `token_log_probs`: the log-probabilities themselves can be differentiated, whatever is done with
  them afterwards (preferences, policies). The logits are formed again in the backward pass.

The softmax is computed in float32 or better. The output weight may be frozen or learn; its
gradient is formed only where it is asked for.

Shapes: N tokens with a target, D model size, V vocabulary. The module knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 48 << 20
"""Logits of one chunk: small enough to stay near the cache, large enough that reading the output
weight once a chunk is paid for (measured: a wide optimum between 128 and 512 rows of 49,152)."""


@dataclass(frozen=True)
class LogitShape:
    """What a model does to its logits: `softcap * tanh(scale * logits / softcap)`.

    `softcap` is None where there is none (Gemma has one), `scale` multiplies (Cohere, Granite).
    """

    scale: float = 1.0
    softcap: float | None = None


PLAIN = LogitShape()


class TokenLoss(NamedTuple):
    """Outcome of `linear_cross_entropy`: only `total` carries a gradient."""

    total: Tensor
    logprobs_N: Tensor
    correct_N: Tensor


class TokenScores(NamedTuple):
    """Outcome of `token_log_probs`: `logprobs_N` carries a gradient."""

    logprobs_N: Tensor
    correct_N: Tensor


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    shape: LogitShape = PLAIN,
    chunk_rows: int | None = None,
) -> TokenLoss:
    """Return the weighted **sum** of the negative log-likelihood, and each token's log-probability.

    Args:
        hidden_ND: hidden states of the tokens that have a target, after the last norm.
        weight_VD: weight of the output layer.
        targets_N: the token that each row predicts.
        weights_N: what each token counts; for a mean over a step divide them beforehand, or
            multiply the total: the gradient is scaled by what flows back.
        bias_V: bias of the output layer.
        shape: scale and soft cap of the logits.
        chunk_rows: rows at a time; None chooses by the size of the vocabulary.

    `correct_N` says whether the target was the most likely token. All float results are float32,
    or float64 where the hidden states are.
    """
    total, logprobs_N, correct_N = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, targets_N, weights_N, shape, chunk_rows
    )
    return TokenLoss(total, logprobs_N, correct_N)


def token_log_probs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    shape: LogitShape = PLAIN,
    chunk_rows: int | None = None,
) -> TokenScores:
    """Return the log-probability of each target (natural logarithm), differentiable.

    Arguments as in `linear_cross_entropy`.
    """
    logprobs_N, correct_N = _LogProbs.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, targets_N, shape, chunk_rows
    )
    return TokenScores(logprobs_N, correct_N)


class _CrossEntropy(torch.autograd.Function):
    """Forward makes the gradients too; backward multiplies them by what flows back."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        weights_N: Tensor,
        shape: LogitShape,
        chunk_rows: int | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        output = _Output(weight_VD, bias_V, shape)
        needs = ctx.needs_input_grad[:3]
        sink = _Gradients.like(hidden_ND, weight_VD, bias_V, needs)
        logprobs_N, correct_N = _results(hidden_ND)
        for rows in _chunks(hidden_ND, weight_VD, chunk_rows):
            scores = output.scores(hidden_ND[rows], targets_N[rows])
            logprobs_N[rows], correct_N[rows] = scores.logprobs_N, scores.correct_N
            if any(needs):
                upstream_N = -weights_N[rows].to(logprobs_N.dtype)
                output.backward(hidden_ND[rows], scores, targets_N[rows], upstream_N, sink, rows)
        ctx.save_for_backward(*sink)
        ctx.mark_non_differentiable(logprobs_N, correct_N)
        total = -(logprobs_N * weights_N.to(logprobs_N.dtype)).sum()
        return total, logprobs_N, correct_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if g is None else g * grad.to(g.dtype) for g in ctx.saved_tensors]
        return (*scaled, None, None, None, None)


class _LogProbs(torch.autograd.Function):
    """Forward keeps no logits; backward forms them again, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        shape: LogitShape,
        chunk_rows: int | None,
    ) -> tuple[Tensor, Tensor]:
        output = _Output(weight_VD, bias_V, shape)
        logprobs_N, correct_N = _results(hidden_ND)
        for rows in _chunks(hidden_ND, weight_VD, chunk_rows):
            scores = output.scores(hidden_ND[rows], targets_N[rows])
            logprobs_N[rows], correct_N[rows] = scores.logprobs_N, scores.correct_N
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N)
        ctx.shape, ctx.chunk_rows = shape, chunk_rows
        ctx.mark_non_differentiable(correct_N)
        return logprobs_N, correct_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, targets_N = ctx.saved_tensors
        output = _Output(weight_VD, bias_V, ctx.shape)
        sink = _Gradients.like(hidden_ND, weight_VD, bias_V, ctx.needs_input_grad[:3])
        for rows in _chunks(hidden_ND, weight_VD, ctx.chunk_rows):
            scores = output.scores(hidden_ND[rows], targets_N[rows])
            output.backward(hidden_ND[rows], scores, targets_N[rows], grad_N[rows], sink, rows)
        return (*sink, None, None, None)


class _Gradients(NamedTuple):
    """Where gradients are gathered; None for what is frozen."""

    hidden_ND: Tensor | None
    weight_VD: Tensor | None
    bias_V: Tensor | None

    @classmethod
    def like(
        cls, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, needs: tuple[bool, ...]
    ) -> _Gradients:
        return cls(
            torch.empty_like(hidden_ND) if needs[0] else None,
            torch.zeros_like(weight_VD) if needs[1] else None,
            torch.zeros_like(bias_V) if needs[2] and bias_V is not None else None,
        )


class _Scores(NamedTuple):
    """One chunk: logits as the model means them, their log-sum-exp, and what is asked of them."""

    logits_NV: Tensor
    normaliser_N: Tensor
    logprobs_N: Tensor
    correct_N: Tensor


@dataclass(frozen=True)
class _Output:
    """The output layer: hidden states to probabilities, and the way back, one chunk at a time."""

    weight_VD: Tensor
    bias_V: Tensor | None
    shape: LogitShape

    def scores(self, hidden_ND: Tensor, targets_N: Tensor) -> _Scores:
        logits_NV = torch.nn.functional.linear(hidden_ND, self.weight_VD, self.bias_V)
        logits_NV = logits_NV.to(_score_dtype(hidden_ND))
        if self.shape.scale != 1.0:
            logits_NV *= self.shape.scale
        if self.shape.softcap is not None:
            logits_NV.div_(self.shape.softcap).tanh_().mul_(self.shape.softcap)
        normaliser_N = logits_NV.logsumexp(-1)
        logprobs_N = logits_NV.gather(1, targets_N[:, None])[:, 0] - normaliser_N
        return _Scores(logits_NV, normaliser_N, logprobs_N, logits_NV.argmax(-1) == targets_N)

    def backward(
        self,
        hidden_ND: Tensor,
        scores: _Scores,
        targets_N: Tensor,
        upstream_N: Tensor,
        sink: _Gradients,
        rows: slice,
    ) -> None:
        """Gather the gradients of `sum(upstream * logprobs)` over a chunk; consumes its logits."""
        logits_NV, softcap = scores.logits_NV, self.shape.softcap
        slope_NV = None if softcap is None else 1.0 - (logits_NV / softcap).square_()
        grad_NV = logits_NV.sub_(scores.normaliser_N[:, None]).exp_().mul_(-upstream_N[:, None])
        grad_NV.scatter_add_(1, targets_N[:, None], upstream_N[:, None])
        if slope_NV is not None:
            grad_NV *= slope_NV
        if self.shape.scale != 1.0:
            grad_NV *= self.shape.scale
        grad_NV = grad_NV.to(hidden_ND.dtype)
        if sink.hidden_ND is not None:
            torch.mm(grad_NV, self.weight_VD, out=sink.hidden_ND[rows])
        if sink.weight_VD is not None:
            sink.weight_VD.addmm_(grad_NV.T, hidden_ND)
        if sink.bias_V is not None:
            sink.bias_V.add_(grad_NV.sum(0))


def _score_dtype(hidden_ND: Tensor) -> torch.dtype:
    return torch.promote_types(hidden_ND.dtype, torch.float32)


def _results(hidden_ND: Tensor) -> tuple[Tensor, Tensor]:
    rows = hidden_ND.shape[0]
    return (
        hidden_ND.new_empty(rows, dtype=_score_dtype(hidden_ND)),
        hidden_ND.new_empty(rows, dtype=torch.bool),
    )


def _chunks(hidden_ND: Tensor, weight_VD: Tensor, chunk_rows: int | None) -> Iterator[slice]:
    total = hidden_ND.shape[0]
    if chunk_rows is None:
        chunk_rows = max(1, CHUNK_BYTES // (4 * weight_VD.shape[0]))
    pieces = max(1, math.ceil(total / chunk_rows))
    size = max(1, math.ceil(total / pieces))
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
