"""A base that is stored in 8 or 4 bits: which weights, how, and what stays in float32.

    Quantised("nf4") ──load_options──> transformers quantises while it loads ──settle──> Model

The linear maps of the layers are stored quantised and expanded one at a time when they are used:
8 bits with a scale for each row (LLM.int8: Dettmers et al. 2022, arXiv:2208.07339), or 4 bits whose
16 values are the quantiles of a normal distribution, with a scale for every 64 of them, itself
quantised where that is asked for (QLoRA: Dettmers et al. 2023, arXiv:2305.14314). Embeddings,
norms, heads and the vocabulary layer are kept in float32. A gradient passes *through* a quantised
map to what learns below it; the map itself cannot learn.

bitsandbytes packs the weights, on a processor as on a GPU; checkpoints that others stored packed
(torchao, GPTQ, AWQ) are computed with likewise, see `packed_maps.py`. It knows no recipe and no
technique.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from tunesmith.errors import ModelError
from tunesmith.kernels.expanded import int8_product
from tunesmith.models.learning import widen
from tunesmith.models.packed_maps import (
    expand_where_used,
    form_of,
    is_packed,
    is_wrapped,
    numbers_in,
    room_to_expand,
    unwrapped,
)

if TYPE_CHECKING:
    from tunesmith.models.anatomy import Anatomy

Kind = Literal["int8", "nf4"]

_READERS: dict[str, tuple[dict[str, str], str]] = {
    "bitsandbytes": ({"bitsandbytes": "0.50", "accelerate": "1.1"}, "quantized"),
    "gptq": ({"gptqmodel": "7.0", "optimum": "1.24"}, "gptq"),
    "awq": ({"gptqmodel": "7.0", "accelerate": "1.1"}, "awq"),
    "torchao": ({"torchao": "0.16"}, "torchao"),
}
"""Who stores quantised weights in files: the packages that read them, from which version on PEFT
and transformers go with them, and the extra that they are in."""

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
    """Raise ModelError where what reads weights of this method is not installed, or too old."""
    from packaging.version import Version

    packages, extra = _READERS[method]
    fix = f'Install it: pip install "tunesmith[{extra}]".'
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"Weights that {method} quantises need {' and '.join(missing)}: not installed.",
            where=where,
            fix=fix,
        )
    for name, least in packages.items():
        if Version(version(name)) < Version(least):
            raise ModelError(
                f"Weights that {method} quantises need {name} {least} or newer; {version(name)} is"
                " installed.",
                where=where,
                fix=fix,
            )


def reading_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return options for transformers under which weights stay packed as they lie in the files.

    gptqmodel's faster products pack them anew for one device.
    """
    from transformers import AwqConfig, GPTQConfig

    method = stored_as(config)
    if method not in ("gptq", "awq"):
        return {}
    bits = config["quantization_config"].get("bits", 4)
    plain = (
        GPTQConfig(bits, backend="gptq_torch")
        if method == "gptq"
        else AwqConfig(bits=bits, backend="torch_awq")
    )
    return {"quantization_config": plain}


def reading_advice(config: dict[str, Any]) -> str | None:
    """Return what to do where a quantised checkpoint cannot be read; None for one that is not."""
    method = stored_as(config)
    if method not in _READERS:
        return None
    readers = " and ".join(f"{name} {version(name)}" for name in _READERS[method][0])
    return (
        f"Its files are read by {readers} on this machine: fetch the model again, try another"
        " version of them, or choose the original model with `base: {quantize: nf4}`."
    )


def stored_as(config: dict[str, Any]) -> str | None:
    """Return by which method a model's files are quantised, or None where they are not."""
    stated = config.get("quantization_config")
    if stated is None:
        return None
    method = stated.get("quant_method", "an unknown method")
    return str(getattr(method, "value", method))  # transformers has names of its own for them


def extra_of(method: str) -> str | None:
    """Return the extra that reads weights which this method stored; None where none does."""
    return _READERS[method][1] if method in _READERS else None


def is_quantised(module: nn.Module) -> bool:
    """Whether a map that is stored quantised is in `module`."""
    return any(_is_quantised_map(part) for part in module.modules())


def settle(module: nn.Module) -> None:
    """Put all that is not quantised in float32; let maps compute alike in training and in use."""
    for parameter in module.parameters():
        if parameter.is_floating_point() and not is_wrapped(parameter):
            widen(parameter)
    for part in module.modules():
        if is_packed(part):
            expand_where_used(part)
        if not _is_bitsandbytes_map(part):
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


def stored_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Yield parameters and buffers, and what is kept beside them (scales); of packed ones, that."""
    for tensor in (*module.parameters(), *module.buffers()):
        yield from unwrapped(tensor)
    for part in module.modules():
        if _is_bitsandbytes_map(part):
            weight: Any = part.weight
            state: Any = getattr(part, "state", None)
            found = [getattr(weight, "SCB", None), getattr(state, "SCB", None)]
            kept: Any = getattr(weight, "quant_state", None)
            if kept is not None:
                found += [kept.absmax, kept.code, kept.offset]
                found += [kept.state2.absmax, kept.state2.code] if kept.nested else []
            yield from (tensor for tensor in found if isinstance(tensor, Tensor))


def parameter_count(module: nn.Module) -> int:
    """Return how many numbers the parameters of a module stand for.

    Two of 4 bits are stored in a byte; the weights of GPTQ and AWQ are no parameters to PyTorch.
    """
    beside = sum(numbers_in(part) for part in module.modules() if hasattr(part, "qweight"))
    return sum(map(_numbers_of, module.parameters())) + beside


def _numbers_of(parameter: nn.Parameter) -> int:
    state: Any = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def stored_facts(module: nn.Module) -> dict[str, str]:
    """Return what the report says of a base that is stored quantised in its files, by heading."""
    maps = [part for part in module.modules() if _is_quantised_map(part)]
    if not maps:
        return {}
    config: Any = module.config
    method = stored_as(config.to_dict())
    forms = sorted({form_of(part) for part in maps})
    return {
        "Base": f"{len(maps)} linear maps are stored quantised in its files by {method}"
        f" ({', '.join(forms)}), frozen; each is expanded while it is used, inputs are not rounded"
    }


def quantised_maps(module: nn.Module) -> dict[str, nn.Module]:
    """Return the maps that are stored quantised, by name."""
    return {name: part for name, part in module.named_modules() if _is_quantised_map(part)}


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
    """Return the bytes of the weights that are stored quantised, scales of packed maps included."""
    whole = sum(p.nbytes for p in module.parameters() if not p.is_floating_point())
    maps = [part for part in module.modules() if is_packed(part)]
    return whole + sum(tensor.nbytes for part in maps for tensor in stored_tensors(part))


def expanded_bytes(module: nn.Module, dtype: torch.dtype) -> int:
    """Return the bytes of the largest quantised map while it is used; 0 where there is none."""
    sizes = [
        room_to_expand(part, dtype) if is_packed(part) else numbers_in(part) * dtype.itemsize
        for part in module.modules()
        if _is_quantised_map(part)
    ]
    return max(sizes, default=0)


def _is_quantised_map(part: nn.Module) -> bool:
    return _is_bitsandbytes_map(part) or is_packed(part)


def _is_bitsandbytes_map(part: nn.Module) -> bool:
    return type(part).__name__ in ("Linear4bit", "Linear8bitLt") and isinstance(part, nn.Linear)
