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

from tunesmith.kernels import native

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
    inputs = _in_one_format(hidden_ND, weight_VD, bias_V)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        total, logprobs_N, correct_N = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
            *inputs, targets_N, weights_N, shape, chunk_rows, torch.is_grad_enabled()
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
    inputs = _in_one_format(hidden_ND, weight_VD, bias_V)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        logprobs_N, correct_N = _LogProbs.apply(  # type: ignore[no-untyped-call]
            *inputs, targets_N, shape, chunk_rows
        )
    return TokenScores(logprobs_N, correct_N)


def _in_one_format(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Bring hidden states, weight and bias to the format of autocast, else that of the weight."""
    kind = hidden_ND.device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else weight_VD.dtype
    return hidden_ND.to(dtype), weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype)


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
        learning: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        output = _Output(weight_VD, bias_V, shape)
        needs = tuple(learning and need for need in ctx.needs_input_grad[:3])
        sink = _Gradients.like(hidden_ND, weight_VD, bias_V, needs)
        logprobs_N, correct_N = _results(hidden_ND)
        weights_N = weights_N.to(logprobs_N.dtype)
        for rows in _chunks(hidden_ND, weight_VD, chunk_rows):
            upstream_N = -weights_N[rows] if any(needs) else None
            scores = output.scores(hidden_ND[rows], targets_N[rows], upstream_N)
            logprobs_N[rows], correct_N[rows] = scores.logprobs_N, scores.correct_N
            if scores.grad_NV is not None:
                output.backward(hidden_ND[rows], scores.grad_NV, sink, rows)
            del scores  # a chunk is large: not one beside the next
        ctx.save_for_backward(*sink)
        ctx.mark_non_differentiable(logprobs_N, correct_N)
        return -(logprobs_N * weights_N).sum(), logprobs_N, correct_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if g is None else g * grad.to(g.dtype) for g in ctx.saved_tensors]
        return (*scaled, None, None, None, None, None)


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
            scores = output.scores(hidden_ND[rows], targets_N[rows], None)
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
        grad_N = grad_N.contiguous()
        for rows in _chunks(hidden_ND, weight_VD, ctx.chunk_rows):
            scores = output.scores(hidden_ND[rows], targets_N[rows], grad_N[rows])
            assert scores.grad_NV is not None
            output.backward(hidden_ND[rows], scores.grad_NV, sink, rows)
            del scores
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
    """Of one chunk: the targets' log-probabilities, and the gradient of the raw logits."""

    logprobs_N: Tensor
    correct_N: Tensor
    grad_NV: Tensor | None


@dataclass(frozen=True)
class _Output:
    """The output layer: hidden states to probabilities, and the way back, one chunk at a time."""

    weight_VD: Tensor
    bias_V: Tensor | None
    shape: LogitShape

    def scores(self, hidden_ND: Tensor, targets_N: Tensor, upstream_N: Tensor | None) -> _Scores:
        """Score a chunk; with `upstream_N` also the gradient of `sum(upstream * logprobs)`."""
        logits_NV = torch.nn.functional.linear(hidden_ND, self.weight_VD, self.bias_V)
        logits_NV = logits_NV.to(_score_dtype(hidden_ND))
        if self.shape.scale != 1.0:
            logits_NV *= self.shape.scale
            upstream_N = None if upstream_N is None else upstream_N * self.shape.scale
        if self.shape.softcap is None and native.usable(logits_NV):
            return _compiled_scores(logits_NV, targets_N, upstream_N)
        slope_NV = None
        if self.shape.softcap is not None:
            bent_NV = logits_NV.div_(self.shape.softcap).tanh_()
            slope_NV = None if upstream_N is None else 1.0 - bent_NV.square()
            logits_NV = bent_NV.mul_(self.shape.softcap)
        normaliser_N = logits_NV.logsumexp(-1)
        logprobs_N = logits_NV.gather(1, targets_N[:, None])[:, 0] - normaliser_N
        correct_N = logits_NV.argmax(-1) == targets_N
        if upstream_N is None:
            return _Scores(logprobs_N, correct_N, None)
        grad_NV = logits_NV.sub_(normaliser_N[:, None]).exp_().mul_(-upstream_N[:, None])
        grad_NV.scatter_add_(1, targets_N[:, None], upstream_N[:, None])
        if slope_NV is not None:
            grad_NV *= slope_NV
        return _Scores(logprobs_N, correct_N, grad_NV)

    def backward(self, hidden_ND: Tensor, grad_NV: Tensor, sink: _Gradients, rows: slice) -> None:
        """Gather a chunk's gradients of the hidden states and of what learns."""
        grad_NV = grad_NV.to(hidden_ND.dtype)
        if sink.hidden_ND is not None:
            torch.mm(grad_NV, self.weight_VD, out=sink.hidden_ND[rows])
        if sink.weight_VD is not None:
            sink.weight_VD.addmm_(grad_NV.T, hidden_ND)
        if sink.bias_V is not None:
            sink.bias_V.add_(grad_NV.sum(0))


def _compiled_scores(logits_NV: Tensor, targets_N: Tensor, upstream_N: Tensor | None) -> _Scores:
    """The same in one sweep of each row; the logits become their gradient."""
    logprobs_N = logits_NV.new_empty(len(logits_NV))
    correct_N = logits_NV.new_empty(len(logits_NV), dtype=torch.bool)
    targets_N = targets_N.contiguous()
    upstream_N = None if upstream_N is None else upstream_N.contiguous()
    results = (logprobs_N, correct_N, *logits_NV.shape)
    native.call("token_softmax", logits_NV, targets_N, upstream_N, *results)
    return _Scores(logprobs_N, correct_N, None if upstream_N is None else logits_NV)


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
