"""Packed attention equals attention on each document alone."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.kernels import native
from tunesmith.kernels.attention import (
    by_document,
    document_spans,
    packed_attention,
    packed_rotary_attention,
)
from tunesmith.kernels.dropout import Dropout
from tunesmith.kernels.spans import Rows, Spans


def plain(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], causal: bool, window: int | None
) -> Tensor:
    """Attention of each document by the formula, scores in full."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    outputs, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        scores = q[:, :, part] @ k[:, :, part].transpose(-1, -2) / q.shape[-1] ** 0.5
        distance = torch.arange(length)[:, None] - torch.arange(length)
        seen = distance >= 0 if causal else torch.ones(length, length, dtype=torch.bool)
        if window is not None:
            seen = seen & (distance.abs() < window)
        outputs.append(scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v[:, :, part])
        start += length
    return torch.cat(outputs, 2)


def inputs(heads: int, key_heads: int, rows: int, size: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(rows)
    counts = (heads, key_heads, key_heads)
    return [
        torch.randn(1, rows, n, size, dtype=dtype).transpose(1, 2).requires_grad_() for n in counts
    ]


def boundaries(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def distance(a: Tensor, b: Tensor) -> float:
    return float(
        (a.double() - b.double()).detach().norm() / b.double().detach().norm().clamp_min(1e-3)
    )


def all_of(output: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    slope = torch.linspace(-1, 1, output.numel()).view_as(output).to(output.dtype)
    return [output, *torch.autograd.grad((output * slope).sum(), tensors)]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=6),
    key_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    causal=st.booleans(),
    window=st.one_of(st.none(), st.integers(1, 6)),
    block_rows=st.sampled_from([4, 8, 256]),
)
def test_packed_attention_equals_each_document_alone_in_float64(
    lengths: list[int],
    key_heads: int,
    group: int,
    causal: bool,
    window: int | None,
    block_rows: int,
) -> None:
    tensors = inputs(key_heads * group, key_heads, sum(lengths), 4, torch.float64)
    spans = document_spans(boundaries(lengths), causal=causal, window=window, block_rows=block_rows)
    actual = all_of(packed_attention(*tensors, spans), tensors)
    expected = all_of(plain(*tensors, lengths, causal, window), tensors)
    for ours, theirs in zip(actual, expected, strict=True):
        assert distance(ours, theirs) <= 1e-10


@pytest.mark.parametrize("lengths", [[300], [40, 7, 200, 90], [1, 3, 1]])
@pytest.mark.parametrize("causal", [True, False])
def test_packed_attention_in_float32_equals_float64(lengths: list[int], causal: bool) -> None:
    tensors = inputs(6, 2, sum(lengths), 32, torch.float32)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    spans = document_spans(boundaries(lengths), causal=causal, block_rows=64)
    actual = all_of(packed_attention(*tensors, spans), tensors)
    expected = all_of(plain(*exact, lengths, causal, None), exact)
    for ours, theirs in zip(actual, expected, strict=True):
        assert distance(ours, theirs) <= 1e-5


def test_bfloat16_is_no_worse_than_plain_bfloat16() -> None:
    lengths = [60, 100]
    tensors = inputs(6, 2, sum(lengths), 32, torch.bfloat16)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    reference = all_of(plain(*exact, lengths, True, None), exact)
    theirs = all_of(plain(*tensors, lengths, True, None), tensors)
    spans = document_spans(boundaries(lengths), causal=True)
    ours = all_of(packed_attention(*tensors, spans), tensors)
    for one, other, exact_one in zip(ours, theirs, reference, strict=True):
        assert distance(one, exact_one) <= 1.1 * distance(other, exact_one)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_plain_path_by_document_equals_the_formula(causal: bool, window: int | None) -> None:
    lengths = [5, 1, 9]
    tensors = inputs(4, 2, sum(lengths), 8, torch.float64)
    spans = document_spans(boundaries(lengths), causal=causal, window=window)
    actual = by_document(*tensors, spans, scale=8**-0.5)
    assert distance(actual, plain(*tensors, lengths, causal, window)) <= 1e-10


@pytest.mark.parametrize("plain_path", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_joint_rotary_attention_equals_its_parts(
    plain_path: bool, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plain_path:
        monkeypatch.setattr(native, "usable", lambda *tensors: False)
    lengths, heads, key_heads, size = [30, 5, 61], 4, 2, 16
    rows = sum(lengths)
    torch.manual_seed(1)
    qkv = torch.randn(rows, (heads + 2 * key_heads) * size, dtype=dtype)
    angles = torch.randn(rows, size // 2).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()

    def by_parts(joint: Tensor) -> Tensor:
        q, k, v = joint.view(1, rows, -1, size).split([heads, key_heads, key_heads], 2)
        q, k = (
            x * cos[:, None]
            + torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1) * sin[:, None]
            for x in (q, k)
        )
        return plain(*(x.transpose(1, 2) for x in (q, k, v)), lengths, True, None)

    exact = qkv.double().requires_grad_()
    expected = all_of(by_parts(exact).transpose(1, 2).reshape(rows, -1), [exact])
    joint = qkv.clone().requires_grad_()
    spans = document_spans(boundaries(lengths), causal=True, block_rows=32)
    output = packed_rotary_attention(joint * 1.0, cos, sin, heads, key_heads, spans)
    for ours, theirs in zip(all_of(output, [joint]), expected, strict=True):
        assert distance(ours, theirs) <= tolerance


def test_no_document_sees_another() -> None:
    lengths = [5, 8, 3]
    q, k, v = (t.detach() for t in inputs(2, 2, sum(lengths), 4, torch.float32))
    spans = document_spans(boundaries(lengths), causal=False)
    before = packed_attention(q, k, v, spans)
    changed = [t.clone() for t in (q, k, v)]
    for t in changed:
        t[:, :, 5:13] += 1.0
    after = packed_attention(*changed, spans)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert torch.equal(before[:, :, 13:], after[:, :, 13:])
    assert not torch.equal(before[:, :, 5:13], after[:, :, 5:13])


@pytest.mark.parametrize("plain_path", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_dropped_weights_are_the_same_forward_and_backward(
    plain_path: bool, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plain_path:
        monkeypatch.setattr(native, "usable", lambda *tensors: False)
    lengths, heads, key_heads = [40, 7, 90], 6, 2
    tensors = inputs(heads, key_heads, sum(lengths), 16, torch.float32)
    spans = document_spans(boundaries(lengths), causal=causal, block_rows=32)
    torch.manual_seed(5)
    output = packed_attention(*tensors, spans, dropout=0.3)
    torch.manual_seed(5)
    dropout = Dropout.drawn(0.3)

    rows = sum(lengths)
    kept = dropout.keeps_weights(torch.arange(rows), torch.arange(rows), heads)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    q, k, v = exact[0], *(t.repeat_interleave(heads // key_heads, 1) for t in exact[1:])
    document = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    seen = document[:, None] == document
    seen = seen.tril() if causal else seen
    scores = (q @ k.transpose(-1, -2) / 4.0).masked_fill(~seen, -torch.inf)
    expected = (scores.softmax(-1) * kept / 0.7) @ v
    for ours, theirs in zip(all_of(output, tensors), all_of(expected, exact), strict=True):
        assert distance(ours, theirs) <= 1e-5


def test_dropout_of_attention_changes_the_result_and_keeps_its_mean() -> None:
    q, k, v = (t.detach() for t in inputs(1, 1, 6, 4, torch.float64))
    spans = document_spans(boundaries([6]), causal=True)
    torch.manual_seed(0)
    draws = torch.stack([packed_attention(q, k, v, spans, dropout=0.3) for _ in range(4000)])
    expected = packed_attention(q, k, v, spans)
    assert not torch.equal(draws[0], draws[1])
    assert (draws.mean(0) - expected).abs().max() < 0.1


def test_blocks_cover_every_query_once_and_stay_small() -> None:
    lengths = [3, 300, 2, 2, 90, 256, 1]
    spans = document_spans(boundaries(lengths), causal=True, block_rows=100)
    covered = [t for block in spans.blocks for t in range(block.first, block.last)]
    assert covered == list(range(sum(lengths)))
    assert max(block.last - block.first for block in spans.blocks) <= 100


def test_shapes_that_disagree_are_refused() -> None:
    spans = document_spans(boundaries([4]), causal=True)
    q, kv = torch.randn(1, 3, 4, 8), torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match="one row of 4 tokens"):
        packed_attention(q, kv, kv, spans)


@settings(max_examples=40, deadline=None)
@given(
    own=st.lists(st.integers(0, 9), min_size=2, max_size=6),
    beginning=st.integers(1, 40),
    window=st.one_of(st.none(), st.integers(1, 12)),
    joint=st.booleans(),
    block_rows=st.sampled_from([4, 64]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_shared_beginning_gives_what_repeating_it_gives(
    own: list[int],
    beginning: int,
    window: int | None,
    joint: bool,
    block_rows: int,
    dtype: torch.dtype,
) -> None:
    own = [beginning + 1, *own]  # the first document computes the beginning too
    starts = boundaries(own)
    keys = [list(range(own[0]))]
    for first, last in pairwise(starts[1:].tolist()):
        keys.append([*range(beginning), *range(first, last)])
    keys_S = torch.tensor([row for rows in keys for row in rows])
    rows = Rows(boundaries([len(k) for k in keys]), starts, keys_S)
    spans = document_spans(rows, causal=True, window=window, block_rows=block_rows)
    repeated = document_spans(rows.cu_seqlens, causal=True, window=window, block_rows=block_rows)
    ends = rows.cu_seqlens[1:].tolist()
    queries = [place for end, n in zip(ends, own, strict=True) for place in range(end - n, end)]

    qkv = torch.randn(sum(own), 6 * 8, dtype=dtype, generator=torch.Generator().manual_seed(1))
    qkv.requires_grad_()
    angle = torch.rand(sum(own), 4, generator=torch.Generator().manual_seed(2)).repeat(1, 2)
    turn = (angle.cos().to(dtype), angle.sin().to(dtype))

    def attend(rows_TC: Tensor, cos: Tensor, sin: Tensor, who: Spans) -> Tensor:
        if joint:
            return packed_rotary_attention(rows_TC.clone(), cos, sin, 4, 1, who)
        q, k, v = (
            part.transpose(0, 1)[None]
            for part in torch.split(rows_TC.view(len(rows_TC), 6, 8), [4, 1, 1], 1)
        )
        return packed_attention(q, k, v, who).transpose(1, 2).flatten(2)[0]

    found = attend(qkv, *turn, spans)
    expected = attend(qkv[keys_S], *(t[keys_S] for t in turn), repeated)[queries]
    for ours, theirs in zip(all_of(found, [qkv]), all_of(expected, [qkv]), strict=True):
        assert distance(ours, theirs) < (1e-5 if dtype == torch.float32 else 1e-10)


def test_a_shared_beginning_is_refused_where_attention_looks_ahead() -> None:
    ends = boundaries([3, 2])
    with pytest.raises(ValueError, match="look ahead"):
        document_spans(Rows(ends, ends, torch.arange(5)), causal=False)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=6),
    heads=st.sampled_from([(2, 2), (4, 2)]),
)
def test_a_target_reads_all_of_its_own_source_and_nothing_else(
    lengths: list[tuple[int, int]], heads: tuple[int, int]
) -> None:
    targets, sources = [n for n, _ in lengths], [n for _, n in lengths]
    q = inputs(*heads, sum(targets), 16, torch.float64)[0]
    k, v = inputs(*heads, sum(sources), 16, torch.float64)[1:]
    rows = Rows(boundaries(sources), boundaries(targets), keys_S=None)
    found = packed_attention(q, k, v, document_spans(rows, causal=False))
    alone = [
        torch.nn.functional.scaled_dot_product_attention(*part, enable_gqa=True)
        for part in zip(
            *(x.split(n, 2) for x, n in ((q, targets), (k, sources), (v, sources))), strict=True
        )
    ]
    expected = torch.cat(alone, 2)
    for ours, theirs in zip(all_of(found, [q, k, v]), all_of(expected, [q, k, v]), strict=True):
        assert distance(ours, theirs) < 1e-9
