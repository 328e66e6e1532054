"""Attention with a bias by place equals the formula on each document alone."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.kernels.biased import biased_attention, groups, padded_lengths, side_by_side
from tunesmith.kernels.spans import document_spans


def boundaries(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def made_up(rows: int, longest: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows)
    shapes = [(1, 3, rows, 8)] * 3 + [(1, 3, longest, longest)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def plain(parts: list[Tensor], lengths: list[int], causal: bool) -> Tensor:
    """The formula, scores in full, document by document."""
    q, k, v, bias = parts
    outputs = []
    for first, last in pairwise(boundaries(lengths).tolist()):
        size = last - first
        scores = q[:, :, first:last] @ k[:, :, first:last].mT * 0.5 + bias[..., :size, :size]
        ahead = torch.ones(size, size, dtype=torch.bool).triu(1) & causal
        outputs.append(scores.masked_fill(ahead, -torch.inf).softmax(-1) @ v[:, :, first:last])
    return torch.cat(outputs, 2)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6), causal=st.booleans())
def test_outputs_and_gradients_are_those_of_each_document_alone(
    lengths: list[int], causal: bool
) -> None:
    parts = made_up(sum(lengths), max(lengths) + 2)
    documents = side_by_side(document_spans(boundaries(lengths), causal=causal), heads=3)
    bias = documents.bias(parts[3])
    found = biased_attention(*parts[:3], documents, bias, scale=0.5)
    expected = plain(parts, lengths, causal)
    slope = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    assert torch.allclose(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad((found * slope).sum(), parts),
        torch.autograd.grad((expected * slope).sum(), parts),
        strict=True,
    ):
        assert torch.allclose(ours, theirs)


def test_half_precision_is_near_the_formula() -> None:
    lengths = [9, 12, 3]
    parts = made_up(sum(lengths), max(lengths))
    documents = side_by_side(document_spans(boundaries(lengths), causal=True), heads=3)
    half = [part.detach().bfloat16().requires_grad_() for part in parts]
    found = biased_attention(*half[:3], documents, documents.bias(half[3]), scale=0.5)
    torch.testing.assert_close(found.double(), plain(parts, lengths, True), atol=0.05, rtol=0.05)
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), half),
        torch.autograd.grad(plain(parts, lengths, True).sum(), parts),
        strict=True,
    ):
        assert ours.dtype == torch.bfloat16
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_what_was_dropped_is_dropped_again_in_the_backward_pass() -> None:
    lengths = [7, 4, 7]
    parts = made_up(sum(lengths), max(lengths))
    documents = side_by_side(document_spans(boundaries(lengths), causal=False), heads=3)

    def total(*given: Tensor) -> Tensor:
        torch.manual_seed(3)
        bias = documents.bias(given[3])
        found = biased_attention(*given[:3], documents, bias, scale=0.5, dropout=0.4)
        return found.square().sum()

    assert not torch.allclose(total(*parts), plain(parts, lengths, False).square().sum())
    assert torch.autograd.gradcheck(total, parts)


def test_a_window_is_refused() -> None:
    spans = document_spans(boundaries([5]), causal=True, window=2)
    with pytest.raises(ValueError, match="see all of themselves"):
        side_by_side(spans, heads=3)


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_a_group_has_every_document_once_and_none_far_from_its_longest(lengths: list[int]) -> None:
    found = groups(lengths)
    assert sorted(place for group in found for place in group) == list(range(len(lengths)))
    for group in found:
        assert min(lengths[place] for place in group) >= 0.75 * lengths[group[0]]
    assert sum(padded_lengths(lengths)) <= sum(lengths) / 0.75
