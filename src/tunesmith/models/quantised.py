"""A base that is stored in 8 or 4 bits: which weights, how, and what stays in float32.

    Quantised("nf4") ──load_options──> transformers quantises while it loads ──settle──> Model

The linear maps of the layers are stored quantised and expanded one at a time when they are used:
8 bits with a scale for each row (LLM.int8: Dettmers et al. 2022, arXiv:2208.07339), or 4 bits whose
16 values are the quantiles of a normal distribution, with a scale for every 64 of them, itself
quantised where that is asked for (QLoRA: Dettmers et al. 2023, arXiv:2305.14314). Embeddings,
norms, heads and the vocabulary layer are kept in float32. A gradient passes *through* a quantised
map to what learns below it; the map itself cannot learn.

bitsandbytes packs the weights, on a processor as on a GPU. It knows no recipe and no technique.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from tunesmith.errors import ModelError
from tunesmith.kernels.expanded import int8_product
from tunesmith.models.learning import widen

if TYPE_CHECKING:
    from tunesmith.models.anatomy import Anatomy

Kind = Literal["int8", "nf4"]

_READERS: dict[str, tuple[tuple[str, ...], str]] = {
    "bitsandbytes": (("bitsandbytes",), "quantized"),
    "gptq": (("gptqmodel", "optimum"), "gptq"),
    "awq": (("gptqmodel",), "awq"),
    "torchao": (("torchao",), "torchao"),
}
"""Who stores quantised weights in files: the packages that read them, and the extra they are in."""

_OUTLIER = 6.0
"""Written into the configuration for other readers, who multiply larger inputs of an int8 map in 16
bits, as its authors say; here no input is rounded."""


@dataclass(frozen=True)
class Quantised:
    """How the linear maps of a base's layers are stored.

    Attributes:
        kind: `int8` (LLM.int8) or `nf4` (4 bits).
        double: whether the scales of `nf4` are quantised too.
    """

    kind: Kind
    double: bool = True

    def facts(self) -> dict[str, str]:
        """Return what the report says of the base, by heading."""
        scales = "scales in 8 bits" if self.double else "scales in float32"
        kinds = {
            "int8": "in 8 bits (LLM.int8)",
            "nf4": f"in 4 bits (NF4, {scales})",
        }
        return {"Base": f"linear maps of the layers stored {kinds[self.kind]}, frozen"}

    def bytes_of(self, numbers: int, rows: int) -> int:
        """Return the bytes of a map of so many weights, in so many rows, as it is stored."""
        if self.kind == "int8":
            return numbers + 4 * rows
        scales = numbers // 64
        # In 8 bits, and for each 256 of them one in float32; or all in float32.
        return numbers // 2 + (scales + 4 * scales // 256 if self.double else 4 * scales)

    def load_options(self, skeleton: nn.Module, anatomy: Anatomy, dtype: torch.dtype) -> Any:
        """Return transformers' settings that quantise the linear maps of the layers, and no others.

        Args:
            skeleton: the model with its head, without data.
            dtype: the format that a map is expanded to where it is used.

        Raises:
            ModelError: bitsandbytes is not installed.
        """
        from transformers import BitsAndBytesConfig

        from tunesmith.models.anatomy.study import is_linear

        check_installed("bitsandbytes", "base.quantize")
        # It says for each product that the inputs are rounded to 16 bits.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        within = {name for layer in anatomy.layers for name in layer.linears}
        others = [n for n, part in skeleton.named_modules() if is_linear(part) and n not in within]
        if self.kind == "int8":
            return BitsAndBytesConfig(
                load_in_8bit=True, llm_int8_threshold=_OUTLIER, llm_int8_skip_modules=others
            )
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.double,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=others,
        )


def check_installed(method: str, where: str) -> None:
    """Raise ModelError where what reads weights of this method is not installed."""
    packages, extra = _READERS[method]
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"Weights that {method} quantises need {' and '.join(missing)}: not installed.",
            where=where,
            fix=f'Install it: pip install "tunesmith[{extra}]".',
        )


def stored_as(config: dict[str, Any]) -> str | None:
    """Return by which method a model's files are quantised, or None where they are not."""
    stated = config.get("quantization_config")
    return None if stated is None else str(stated.get("quant_method", "an unknown method"))


def is_readable(method: str) -> bool:
    """Whether there is a reader for weights that are stored by this method."""
    return method in _READERS


def is_quantised(module: nn.Module) -> bool:
    """Whether a map that bitsandbytes quantises is in `module`."""
    return any(_is_quantised_map(part) for part in module.modules())


def settle(module: nn.Module) -> None:
    """Put all that is not quantised in float32; let maps compute alike in training and in use."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            widen(parameter)
    for part in module.modules():
        if not _is_quantised_map(part):
            continue
        # A map of 4 bits would repack its weights when it is evaluated first, and in that form no
        # gradient passes through them.
        vars(part)["support_avx512bf16_for_cpu"] = False
        if type(part).__name__ == "Linear8bitLt":
            vars(part)["forward"] = _expanding(part)


def _expanding(part: Any) -> Callable[[Tensor], Tensor]:
    if part.weight.CB is not None:
        part.init_8bit_state()  # as at its first use, so that adapters find the scales

    def forward(x: Tensor) -> Tensor:
        return int8_product(x, part.weight.data, part.state.SCB, part.bias)

    return forward


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a tensor stands for others that hold its numbers packed, as torchao's do."""
    return hasattr(tensor, "__tensor_flatten__")


def stored_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Yield parameters and buffers, and what is kept beside them (scales); of packed ones, that."""
    for tensor in (*module.parameters(), *module.buffers()):
        yield from _unwrapped(tensor)
    for part in module.modules():
        if _is_quantised_map(part):
            weight: Any = part.weight
            state: Any = getattr(part, "state", None)
            found = [getattr(weight, "SCB", None), getattr(state, "SCB", None)]
            kept: Any = getattr(weight, "quant_state", None)
            if kept is not None:
                found += [kept.absmax, kept.code, kept.offset]
                found += [kept.state2.absmax, kept.state2.code] if kept.nested else []
            yield from (tensor for tensor in found if isinstance(tensor, Tensor))


def _unwrapped(tensor: Any) -> Iterator[Tensor]:
    if not is_wrapped(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _unwrapped(getattr(tensor, name))


def parameter_count(parameter: nn.Parameter) -> int:
    """Return how many numbers a parameter stands for: two 4-bit ones are stored in a byte."""
    state: Any = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def base_bytes(module: nn.Module, anatomy: Anatomy) -> dict[str, int]:
    """Return the bytes of all weights of a base that is stored so, by kind; shapes will do."""
    from tunesmith.models.anatomy.blocks import map_sizes

    maps = [module.get_submodule(name) for layer in anatomy.layers for name in layer.linears]
    sizes = [map_sizes(part) for part in maps]
    numbers = sum(taken * given for taken, given in sizes)
    wide = 4 * (sum(parameter.numel() for parameter in module.parameters()) - numbers)
    kinds: tuple[Kind, ...] = ("int8", "nf4")
    return {
        kind: wide + sum(Quantised(kind).bytes_of(taken * given, given) for taken, given in sizes)
        for kind in kinds
    }


def packed_bytes(module: nn.Module) -> int:
    """Return the bytes of the weights that are stored in whole numbers."""
    return sum(p.nbytes for p in module.parameters() if not p.is_floating_point())


def expanded_bytes(module: nn.Module, dtype: torch.dtype) -> int:
    """Return the bytes of the largest quantised map while it is used; 0 where there is none."""
    sizes: list[int] = [
        part.in_features * part.out_features  # type: ignore[operator, misc]
        for part in module.modules()
        if _is_quantised_map(part)
    ]
    return max(sizes, default=0) * dtype.itemsize


def _is_quantised_map(part: nn.Module) -> bool:
    return type(part).__name__ in ("Linear4bit", "Linear8bitLt") and isinstance(part, nn.Linear)
