"""A stack of Llama-like layers for one more token of each text, over keys and values that are kept.

    Stack(layers).run(hidden [N, D], …)    all layers in one call: `decoder.c`, float32
    linear_product(x [N, D], linear)       the output layer
    compact(weight)                        the same numbers in 16 bits, where they fit

A stock layer is about a hundred small calls a token; here all layers are one. A text gets the same
numbers whichever others are computed beside it, and however many. Built at first use; where that
is not possible `library()` is None, and the stock layers are there.

Shapes: N texts, D model, O outputs, R ranks, H query heads, J key heads (H = J * G), K head size,
P places of the cache. It knows no model, no prompts and no sampling.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.kernels import native

SOURCE = Path(__file__).with_name("decoder.c")
_FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


@dataclass(frozen=True)
class Linear:
    """A linear layer as it lies in memory, with the adapter beside it.

    Attributes:
        weight_OD: float32, float16 or bfloat16, contiguous; arithmetic is in float32 whichever.
        bias_O: float32.
        a_RD, b_OR: float32, contiguous; None without an adapter.
        scale: of the adapter's product.
    """

    weight_OD: Tensor
    bias_O: Tensor | None = None
    a_RD: Tensor | None = None
    b_OR: Tensor | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Layer:
    """One Llama-like layer. Norms multiply by their weights; those that are None are not there.

    Attributes:
        keys_PJK, values_PJK: what it keeps, float32, contiguous.
        gelu: the gate goes through gelu (its tanh form), else silu.
        epsilon: of every norm.
        scale: of the attention scores.
    """

    norm_in_D: Tensor
    norm_after_attention_D: Tensor | None
    norm_mlp_D: Tensor
    norm_after_mlp_D: Tensor | None
    norm_q_K: Tensor | None
    norm_k_K: Tensor | None
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    gate: Linear
    up: Linear
    down: Linear
    keys_PJK: Tensor
    values_PJK: Tensor
    gelu: bool
    epsilon: float
    scale: float


@dataclass(frozen=True)
class Seen:
    """What a layer needs to know of the tokens of one step.

    Attributes:
        cos_NK, sin_NK: rotation, float32, contiguous.
        ranges_N2: places `[begin, end)` that each token sees, int64.
        longest: most places that any token sees.
    """

    cos_NK: Tensor
    sin_NK: Tensor
    ranges_N2: Tensor
    longest: int


class Stack:
    """Layers ready to run: their addresses, and the tensors that these point into."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._kept = list(layers)
        self._table = (_Layer * len(layers))(*map(_described, layers))
        self._width = max(map(_scratch, layers))

    def run(self, hidden_ND: Tensor, places_N: Tensor, seen: Sequence[Seen]) -> None:
        """Take tokens through the layers in place; keep their keys and values at their places.

        Args:
            hidden_ND: float32, contiguous.
            places_N: int64.
            seen: one a layer.
        """
        for row, one in zip(self._table, seen, strict=True):
            row.cosine, row.sine = one.cos_NK.data_ptr(), one.sin_NK.data_ptr()
            row.ranges = one.ranges_N2.data_ptr()
        rows, model = hidden_ND.shape
        scratch = hidden_ND.new_empty(rows * self._width)
        longest = max(one.longest for one in seen)
        tensors = (hidden_ND, places_N, scratch)
        _call("decoder_layers", self._table, len(self._table), *tensors, rows, model, longest)


def linear_product(x_ND: Tensor, linear: Linear) -> Tensor:
    """Return `x weight^T + bias`, `[N, O]`, without the adapter; float32."""
    y_NO = x_ND.new_empty(len(x_ND), len(linear.weight_OD))
    described = ctypes.pointer(_linear(linear))
    x_ND = x_ND.contiguous()
    _call("decoder_product", described, x_ND, x_ND.shape[1], y_NO, len(x_ND))
    return y_NO


def compact(weight: Tensor) -> Tensor:
    """Return a copy in 16 bits where that loses nothing, else the weight itself.

    Published weights are nearly always float16 or bfloat16, even where they are loaded as float32:
    half the bytes to read for every token, the same numbers.
    """
    found = library()
    if found is None or weight.dtype != torch.float32:
        return weight
    readable = int(found.decoder_formats())
    for dtype in (torch.bfloat16, torch.float16):
        if readable >> _FORMATS[dtype] & 1 and is_copy(weight[:2].to(dtype), weight[:2]):
            half = weight.detach().to(dtype)
            if is_copy(half, weight):
                return half.contiguous()
    return weight


def is_copy(half: Tensor, weight: Tensor) -> bool:
    """Whether a copy in 16 bits holds the same numbers."""
    return torch.equal(half.float(), weight)


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled layers, built at first use; None where that is not possible."""
    found = native.built(SOURCE).library
    if found is not None:
        found.decoder_formats.restype = ctypes.c_int64
    return found


class _Linear(ctypes.Structure):
    """`struct linear` of decoder.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "a", "b")),
        *((name, ctypes.c_int64) for name in ("format", "outputs", "ranks")),
        ("scale", ctypes.c_double),
    ]


_NORMS = ("norm_in", "norm_after_attention", "norm_mlp", "norm_after_mlp", "norm_q", "norm_k")
_LINEARS = ("q", "k", "v", "o", "gate", "up", "down")


class _Layer(ctypes.Structure):
    """`struct layer` of decoder.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _NORMS),
        *((name, _Linear) for name in _LINEARS),
        *((name, ctypes.c_void_p) for name in ("cosine", "sine", "ranges", "keys", "values")),
        *((name, ctypes.c_int64) for name in ("heads", "key_heads", "head", "gelu")),
        *((name, ctypes.c_double) for name in ("epsilon", "scale")),
    ]


def _linear(linear: Linear) -> _Linear:
    ranks = 0 if linear.a_RD is None else len(linear.a_RD)
    pointers = (linear.weight_OD, linear.bias_O, linear.a_RD, linear.b_OR)
    outputs = len(linear.weight_OD)
    return _Linear(
        *map(_address, pointers), _FORMATS[linear.weight_OD.dtype], outputs, ranks, linear.scale
    )


def _described(layer: Layer) -> _Layer:
    norms = (
        layer.norm_in_D,
        layer.norm_after_attention_D,
        layer.norm_mlp_D,
        layer.norm_after_mlp_D,
        layer.norm_q_K,
        layer.norm_k_K,
    )
    linears = (_linear(getattr(layer, name)) for name in _LINEARS)
    key_heads, size = layer.keys_PJK.shape[1:]
    heads = len(layer.q.weight_OD) // size
    seen = (None, None, None, layer.keys_PJK.data_ptr(), layer.values_PJK.data_ptr())
    sizes = (heads, key_heads, size, int(layer.gelu))
    return _Layer(*map(_address, norms), *linears, *seen, *sizes, layer.epsilon, layer.scale)


def _scratch(layer: Layer) -> int:
    """Floats a token that one layer works in."""
    attention = 2 * len(layer.q.weight_OD) + 2 * len(layer.k.weight_OD)
    linears = [getattr(layer, name) for name in _LINEARS]
    ranks = max(0 if linear.a_RD is None else len(linear.a_RD) for linear in linears)
    return len(layer.norm_in_D) + max(attention, 2 * len(layer.gate.weight_OD)) + ranks


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _call(function: str, *arguments: object) -> None:
    found = library()
    assert found is not None
    getattr(found, function)(*map(_argument, arguments))


def _argument(value: object) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int64(value) if isinstance(value, int) else value
