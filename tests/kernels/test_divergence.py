"""The chunked divergence equals the plain computation on all logits."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, linear, log_softmax

from tunesmith.kernels.divergence import OutputRows, linear_divergence
from tunesmith.kernels.token_loss import LogitShape

SHAPES = [LogitShape(), LogitShape(0.25), LogitShape(0.5, 3.0)]


def drawn(rows: int, size: int, vocabulary: int, seed: int, shape: LogitShape) -> OutputRows:
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64)

    return OutputRows(draw(rows, size), draw(vocabulary, size), draw(vocabulary), shape)


def plain(student: OutputRows, teacher: OutputRows, weights: Tensor, temperature: float) -> Tensor:
    def scores(output: OutputRows) -> Tensor:
        logits = linear(output.hidden_ND, output.weight_VD, output.bias_V) * output.shape.scale
        if output.shape.softcap is not None:
            logits = output.shape.softcap * torch.tanh(logits / output.shape.softcap)
        return log_softmax(logits / temperature, -1)

    each = kl_div(scores(student), scores(teacher), log_target=True, reduction="none").sum(-1)
    return (each * weights).sum()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("chunk", [None, 1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_value_and_gradients_equal_torchs_own(
    shape: LogitShape, chunk: int | None, temperature: float
) -> None:
    student, teacher = drawn(7, 5, 11, 0, shape), drawn(7, 4, 11, 1, LogitShape())
    weights = torch.arange(7, dtype=torch.float64)
    inputs = [student.hidden_ND, student.weight_VD, student.bias_V]
    for tensor in inputs:
        tensor.requires_grad_()
    ours = linear_divergence(student, teacher, weights, temperature=temperature, chunk_rows=chunk)
    theirs = plain(student, teacher, weights, temperature)
    torch.testing.assert_close(ours, theirs)
    for found, expected in zip(
        torch.autograd.grad(ours * 0.5, inputs), torch.autograd.grad(theirs * 0.5, inputs),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(found, expected)


def test_a_model_does_not_diverge_from_itself() -> None:
    output = drawn(4, 3, 9, 0, LogitShape())
    assert float(linear_divergence(output, output, torch.ones(4))) == 0.0


def test_rows_that_pad_a_vocabulary_are_left_out() -> None:
    student, wide = drawn(4, 3, 9, 0, LogitShape()), drawn(4, 3, 12, 1, LogitShape())
    assert wide.bias_V is not None
    narrow = OutputRows(wide.hidden_ND, wide.weight_VD[:9], wide.bias_V[:9])
    found = linear_divergence(student, wide, torch.ones(4))
    assert float(found) == float(linear_divergence(student, narrow, torch.ones(4)))


def test_a_frozen_output_layer_gets_no_gradient() -> None:
    student, teacher = drawn(4, 3, 9, 0, LogitShape()), drawn(4, 3, 9, 1, LogitShape())
    student.hidden_ND.requires_grad_()
    linear_divergence(student, teacher, torch.ones(4)).backward()
    assert student.hidden_ND.grad is not None
    assert student.weight_VD.grad is None
