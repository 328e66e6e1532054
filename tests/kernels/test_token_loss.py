"""The chunked losses equal the plain computation on all logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.kernels import native
from tunesmith.kernels.token_loss import LogitShape, linear_cross_entropy, token_log_probs


def plain_log_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shape: LogitShape
) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias) * shape.scale
    if shape.softcap is not None:
        logits = shape.softcap * torch.tanh(logits / shape.softcap)
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return scores.gather(1, targets[:, None])[:, 0]


def problem(
    rows: int, size: int, vocabulary: int, dtype: torch.dtype, bias: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    torch.manual_seed(rows * 31 + size)
    inputs = [torch.randn(rows, size), torch.randn(vocabulary, size)]
    inputs += [torch.randn(vocabulary)] if bias else []
    targets = torch.randint(vocabulary, (rows,))
    weights = torch.rand(rows, dtype=torch.float64)
    return [t.to(dtype).requires_grad_() for t in inputs], targets, weights


def gradients(total: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(total * 0.5, inputs))


def distance(a: Tensor, b: Tensor) -> float:
    return float(
        (a.double() - b.double()).detach().norm() / b.double().detach().norm().clamp_min(1e-3)
    )


SHAPES = st.builds(
    LogitShape, st.sampled_from([1.0, 0.25]), st.one_of(st.none(), st.sampled_from([3.0, 30.0]))
)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 20),
    size=st.integers(1, 8),
    vocabulary=st.integers(2, 30),
    chunk=st.one_of(st.none(), st.integers(1, 25)),
    shape=SHAPES,
    bias=st.booleans(),
)
def test_one_pass_cross_entropy_equals_plain_in_float64(
    rows: int, size: int, vocabulary: int, chunk: int | None, shape: LogitShape, bias: bool
) -> None:
    inputs, targets, weights = problem(rows, size, vocabulary, torch.float64, bias)
    bias_V = inputs[2] if bias else None
    expected = plain_log_probs(inputs[0], inputs[1], bias_V, targets, shape)
    loss = linear_cross_entropy(
        inputs[0], inputs[1], targets, weights, bias_V=bias_V, shape=shape, chunk_rows=chunk
    )
    assert distance(loss.logprobs_N, expected) <= 1e-10
    assert torch.allclose(loss.total, -(weights * expected).sum(), rtol=1e-10)
    plain = gradients(-(weights * expected).sum(), inputs)
    for ours, theirs in zip(gradients(loss.total, inputs), plain, strict=True):
        assert distance(ours, theirs) <= 1e-10


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 20),
    vocabulary=st.integers(2, 30),
    chunk=st.one_of(st.none(), st.integers(1, 25)),
    shape=SHAPES,
    bias=st.booleans(),
)
def test_differentiable_log_probs_equal_plain_in_float64(
    rows: int, vocabulary: int, chunk: int | None, shape: LogitShape, bias: bool
) -> None:
    inputs, targets, weights = problem(rows, 6, vocabulary, torch.float64, bias)
    bias_V = inputs[2] if bias else None
    expected = plain_log_probs(inputs[0], inputs[1], bias_V, targets, shape)
    scores = token_log_probs(
        inputs[0], inputs[1], targets, bias_V=bias_V, shape=shape, chunk_rows=chunk
    )
    plain = gradients((weights * expected.sin()).sum(), inputs)
    ours = gradients((weights * scores.logprobs_N.sin()).sum(), inputs)
    for one, other in zip(ours, plain, strict=True):
        assert distance(one, other) <= 1e-10


def test_cross_entropy_in_float32_equals_the_float64_reference() -> None:
    inputs, targets, weights = problem(300, 64, 1000, torch.float32, True)
    loss = linear_cross_entropy(
        inputs[0], inputs[1], targets, weights, bias_V=inputs[2], chunk_rows=100
    )
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = plain_log_probs(exact[0], exact[1], exact[2], targets, LogitShape())
    plain = gradients(-(weights * expected).sum(), exact)
    assert distance(loss.logprobs_N, expected) <= 1e-5
    for ours, theirs in zip(gradients(loss.total, inputs), plain, strict=True):
        assert distance(ours, theirs) <= 1e-5


@pytest.mark.parametrize("shape", [LogitShape(), LogitShape(scale=0.5)])
def test_compiled_scores_equal_the_plain_ones(
    shape: LogitShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, targets, weights = problem(50, 16, 333, torch.float32, False)
    outcomes = []
    for _ in range(2):
        loss = linear_cross_entropy(inputs[0], inputs[1], targets, weights, shape=shape)
        scores = token_log_probs(inputs[0], inputs[1], targets, shape=shape)
        pair = gradients(loss.total, inputs) + gradients((scores.logprobs_N**2).sum(), inputs)
        outcomes.append([loss.logprobs_N, loss.correct_N.float(), *pair])
        monkeypatch.setattr(native, "usable", lambda *tensors: False)
    for compiled, plain in zip(*outcomes, strict=True):
        assert distance(compiled, plain) <= 1e-5


def test_nothing_is_gathered_for_a_backward_that_cannot_come() -> None:
    inputs, targets, weights = problem(5, 4, 7, torch.float32, False)
    with torch.no_grad():
        loss = linear_cross_entropy(inputs[0], inputs[1], targets, weights)
    assert not loss.total.requires_grad


def test_autocast_computes_in_its_format_and_learns_in_float32() -> None:
    inputs, targets, weights = problem(20, 16, 50, torch.float32, False)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(inputs[0], inputs[1], targets, weights)
    plain = linear_cross_entropy(inputs[0], inputs[1], targets, weights)
    first, second = gradients(loss.total, inputs), gradients(plain.total, inputs)
    assert [g.dtype for g in first] == [torch.float32, torch.float32]
    assert 0.0 < distance(first[0], second[0]) < 0.05


def test_bfloat16_is_no_worse_than_plain_bfloat16() -> None:
    inputs, targets, weights = problem(200, 64, 1000, torch.bfloat16, False)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    reference = gradients(
        -(weights * plain_log_probs(exact[0], exact[1], None, targets, LogitShape())).sum(), exact
    )
    plain = gradients(
        -(weights * plain_log_probs(inputs[0], inputs[1], None, targets, LogitShape())).sum(),
        inputs,
    )
    loss = linear_cross_entropy(inputs[0], inputs[1], targets, weights, chunk_rows=64)
    ours = gradients(loss.total, inputs)
    assert distance(ours[0], reference[0]) <= 1.1 * distance(plain[0], reference[0])
    assert loss.logprobs_N.dtype == torch.float32


def test_frozen_output_weight_gets_no_gradient() -> None:
    inputs, targets, weights = problem(5, 4, 7, torch.float32, False)
    frozen = inputs[1].detach()
    linear_cross_entropy(inputs[0], frozen, targets, weights).total.backward()
    assert frozen.grad is None
    assert inputs[0].grad is not None


def test_correct_says_whether_the_target_was_the_most_likely_token() -> None:
    weight = torch.eye(4)
    hidden = 5.0 * torch.eye(4)[[0, 1, 2]]
    scores = token_log_probs(hidden, weight, torch.tensor([0, 3, 2]))
    assert scores.correct_N.tolist() == [True, False, True]


def test_no_rows_give_a_zero_total() -> None:
    hidden = torch.zeros(0, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.randn(5, 4), torch.zeros(0).long(), torch.zeros(0))
    loss.total.backward()
    assert loss.total.item() == 0.0
