"""How far one output layer's predictions lie from another's, without ever holding all logits.

    student (hidden, weight), teacher (hidden, weight) ──> sum of w * KL(teacher || student)

    KL = sum over V of p (log p - log q),   p = softmax(teacher logits / t),  q = student's likewise

The rows are taken in chunks: the logits of both live in the cache for a chunk, and are then gone.
The gradient, (q - p) / t for the student's logits, is made in the same pass, as in `token_loss.py`;
the teacher gets none. The softmax is computed in float32 or better.

Shapes: N rows, D and E model sizes of student and teacher, V vocabulary. The module knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from tunesmith.kernels.token_loss import CHUNK_BYTES, PLAIN, LogitShape

_COPIES = 4
"""Logits of a chunk that live at once: two log-softmaxes, probabilities, and the gradient."""


@dataclass(frozen=True)
class OutputRows:
    """Hidden states of some tokens, and the layer that turns them into logits.

    `weight_VD` has a row for each token of the vocabulary, `bias_V` a number or is None; `shape` is
    what the model does to its logits.
    """

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None = None
    shape: LogitShape = PLAIN

    def first(self, vocabulary: int) -> OutputRows:
        """Return the same over the first so many tokens of the vocabulary."""
        if len(self.weight_VD) == vocabulary:
            return self
        bias_V = None if self.bias_V is None else self.bias_V[:vocabulary]
        return OutputRows(self.hidden_ND, self.weight_VD[:vocabulary], bias_V, self.shape)


def linear_divergence(
    student: OutputRows,
    teacher: OutputRows,
    weights_N: Tensor,
    *,
    temperature: float = 1.0,
    chunk_rows: int | None = None,
) -> Tensor:
    """Return the weighted sum over rows of KL(teacher || student), in nats.

    Args:
        student, teacher: the same tokens as either model sees them. Where one's vocabulary is
            padded with more rows than the other's, the first common ones are compared.
        weights_N: what each row counts.
        temperature: t; the gradient shrinks with its square (Hinton et al., 2015).
        chunk_rows: rows at a time; None chooses by the size of the vocabulary.
    """
    common = min(len(student.weight_VD), len(teacher.weight_VD))
    student, teacher = student.first(common), teacher.first(common)
    with torch.autocast(student.hidden_ND.device.type, enabled=False):
        total: Tensor = _Divergence.apply(  # type: ignore[no-untyped-call]
            student.hidden_ND,
            student.weight_VD.to(student.hidden_ND.dtype),
            None if student.bias_V is None else student.bias_V.to(student.hidden_ND.dtype),
            student.shape,
            teacher,
            weights_N,
            temperature,
            chunk_rows,
            torch.is_grad_enabled(),
        )
    return total


class _Divergence(torch.autograd.Function):
    """Forward makes the gradients too; backward multiplies them by what flows back."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        shape: LogitShape,
        teacher: OutputRows,
        weights_N: Tensor,
        temperature: float,
        chunk_rows: int | None,
        learning: bool,
    ) -> Tensor:
        needs = [learning and need for need in ctx.needs_input_grad[:3]]
        grad_ND = torch.empty_like(hidden_ND) if needs[0] else None
        grad_VD = torch.zeros_like(weight_VD) if needs[1] else None
        grad_V = torch.zeros_like(bias_V) if needs[2] and bias_V is not None else None
        student = OutputRows(hidden_ND, weight_VD, bias_V, shape)
        total = hidden_ND.new_zeros((), dtype=torch.promote_types(hidden_ND.dtype, torch.float32))
        for rows in _chunks(len(hidden_ND), len(weight_VD), chunk_rows):
            log_p_NV, _ = _log_softmax(teacher, rows, temperature, sloped=False)
            log_q_NV, slope_NV = _log_softmax(student, rows, temperature, sloped=any(needs))
            p_NV = log_p_NV.exp()
            kl_N = (log_p_NV.sub_(log_q_NV).mul_(p_NV)).sum(-1)
            weights = weights_N[rows].to(kl_N.dtype)
            total += (kl_N * weights).sum()
            if not any(needs):
                continue
            grad_NV = (
                log_q_NV.exp_().sub_(p_NV).mul_((weights * shape.scale / temperature)[:, None])
            )
            if slope_NV is not None:
                grad_NV *= slope_NV
            grad_NV = grad_NV.to(hidden_ND.dtype)
            if grad_ND is not None:
                torch.mm(grad_NV, weight_VD, out=grad_ND[rows])
            if grad_VD is not None:
                grad_VD.addmm_(grad_NV.T, hidden_ND[rows])
            if grad_V is not None:
                grad_V += grad_NV.sum(0)
        ctx.save_for_backward(grad_ND, grad_VD, grad_V)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if g is None else g * grad.to(g.dtype) for g in ctx.saved_tensors]
        return (*scaled, *[None] * 6)


def _log_softmax(
    output: OutputRows, rows: slice, temperature: float, *, sloped: bool
) -> tuple[Tensor, Tensor | None]:
    """Return log-probabilities of a chunk, and the slope of the soft cap where it is wanted."""
    hidden_ND, shape = output.hidden_ND[rows], output.shape
    bias_V = None if output.bias_V is None else output.bias_V.to(hidden_ND.dtype)
    logits_NV = linear(hidden_ND, output.weight_VD.to(hidden_ND.dtype), bias_V)
    logits_NV = logits_NV.to(torch.promote_types(hidden_ND.dtype, torch.float32))
    slope_NV = None
    if shape.scale != 1.0:
        logits_NV *= shape.scale
    if shape.softcap is not None:
        bent_NV = logits_NV.div_(shape.softcap).tanh_()
        slope_NV = 1.0 - bent_NV.square() if sloped else None
        logits_NV = bent_NV.mul_(shape.softcap)
    return torch.log_softmax(logits_NV.div_(temperature), -1), slope_NV


def _chunks(rows: int, vocabulary: int, chunk_rows: int | None) -> Iterator[slice]:
    size = chunk_rows or max(1, CHUNK_BYTES // (_COPIES * 4 * vocabulary))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
