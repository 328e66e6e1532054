"""Linear maps whose weights lie packed in a checkpoint's files: torchao's, GPTQ's and AWQ's.

    torchao    nn.Linear whose weight is a tensor that stands for others (codes, scales, zeros)
    GPTQ       codes in words of 32 bits along the inputs; a group for each input   qweight [D/n, O]
    AWQ        the same along the outputs, in an order of their own                 qweight [D, O/n]

               W = (code - zero) * scale, zero and scale for each group of inputs

(GPTQ: Frantar et al. 2023, arXiv:2210.17323; AWQ: Lin et al. 2024, arXiv:2306.00978; the packed
forms are those of AutoGPTQ and AutoAWQ.) Whatever their own products do, here a weight is expanded
while it is used and made anew for the gradient, and inputs are not rounded. The products that come
with them keep every expanded weight until the backward pass, compute in 16 bits only, or (those of
gptqmodel 7.6 on a processor) pass no gradient on once the model was evaluated.

Shapes: D inputs, O outputs, G groups, n codes in a word. It knows no recipe and no technique.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.kernels.expanded import expanded_product

_WORD = 32
_BITS = (2, 4, 8)
"""Codes of so many bits fill a word; those of 3 bits go across its border."""

_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word of 4-bit codes AWQ puts each output."""


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a tensor stands for others that hold its numbers packed, as torchao's do."""
    return hasattr(tensor, "__tensor_flatten__")


def is_packed(part: nn.Module) -> bool:
    """Whether `part` is a linear map whose weight lies packed in its files."""
    if isinstance(part, nn.Linear):
        return is_wrapped(part.weight)
    return isinstance(getattr(part, "qweight", None), Tensor) and hasattr(part, "in_features")


def form_of(part: nn.Module) -> str:
    """Return what the form is called in which a packed map is stored."""
    return type(part.weight if isinstance(part, nn.Linear) else part).__name__


def expand_where_used(part: nn.Module) -> None:
    """Let a packed map compute with its weight expanded, in training as in use."""
    vars(part)["forward"] = _expanding(part)


def expanded_weight(part: Any, dtype: torch.dtype) -> Tensor:
    """Return the weight `[O, D]` of a packed map.

    Raises:
        NotImplementedError: its form is not known, or cannot be expanded on this device.
    """
    if isinstance(part, nn.Linear):
        return _of_tensor(part.weight, dtype)
    return _of_words(part).to(dtype)


def unwrapped(tensor: Any) -> Iterator[Tensor]:
    """Yield the tensors that one stands for, itself where it is no such thing."""
    if not is_wrapped(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        held = getattr(tensor, name)
        if held is not None:  # torchao names what it may hold, too
            yield from unwrapped(held)


def numbers_in(part: Any) -> int:
    """Return how many weights a linear map has."""
    return int(part.in_features) * int(part.out_features)


def room_to_expand(part: nn.Module, dtype: torch.dtype) -> int:
    """Return the bytes that expanding a packed map takes at its peak, the weight included."""
    if isinstance(part, nn.Linear):
        return 2 * numbers_in(part) * dtype.itemsize  # the codes in that format, and the weight
    return 3 * numbers_in(part) * 4  # codes, weight and zeros


def _expanding(part: Any) -> Callable[[Tensor], Tensor]:
    expand = partial(expanded_weight, part)

    def forward(x: Tensor) -> Tensor:
        return expanded_product(x, expand, part.bias)

    return forward


def _of_tensor(weight: Any, dtype: torch.dtype) -> Tensor:
    if not hasattr(weight, "dequantize") or type(weight).dequantize is Tensor.dequantize:
        raise NotImplementedError(f"{type(weight).__name__} cannot be expanded")
    weight = weight.detach()
    if "output_dtype" in signature(type(weight).dequantize).parameters:
        weight_OD: Tensor = weight.dequantize(output_dtype=dtype)
    else:
        weight_OD = weight.to(dtype).dequantize()
    scale_D = getattr(weight, "act_pre_scale", None)  # of inputs, as SmoothQuant has it
    return weight_OD.to(dtype) if scale_D is None else weight_OD.to(dtype) * scale_D.to(dtype)


def _of_words(part: Any) -> Tensor:
    """Return the float32 weight of a map that GPTQ or AWQ packed."""
    bits = int(part.bits)
    if bits not in _BITS:
        raise NotImplementedError(f"codes of {bits} bits are not known here")
    along_inputs = part.qweight.shape[-1] == part.out_features
    zero_GO = _unpacked(part.qzeros, bits)
    if along_inputs:
        code_OD = _unpacked(part.qweight.t(), bits)
        group_D = part.g_idx.long()
        if part.qzero_format() == 1:  # as in files, a word of which holds zeros less one
            zero_GO = zero_GO + 1
    elif bits != 4:
        raise NotImplementedError(f"the order of {bits}-bit codes of AWQ is not known here")
    else:
        code_OD = _in_order(_unpacked(part.qweight, bits)).t()
        zero_GO = _in_order(zero_GO)
        group_D = torch.arange(part.in_features, device=zero_GO.device) // part.group_size
    weight_OD = code_OD.float()
    del code_OD
    return weight_OD.sub_(zero_GO.float().t()[:, group_D]).mul_(part.scales.float().t()[:, group_D])


def _unpacked(words: Tensor, bits: int) -> Tensor:
    """Return the codes in the last dimension of words, lowest bits first."""
    shifts = torch.arange(0, _WORD, bits, dtype=words.dtype, device=words.device)
    return (words.unsqueeze(-1) >> shifts).bitwise_and_((1 << bits) - 1).flatten(-2)


def _in_order(codes: Tensor) -> Tensor:
    """Return AWQ's codes in the order of the outputs."""
    words = codes.reshape(*codes.shape[:-1], -1, len(_AWQ_PLACES))
    return words[..., list(_AWQ_PLACES)].flatten(-2)
