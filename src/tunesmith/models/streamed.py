"""A base that lies on disk and is brought into memory a layer at a time.

    Model ──Streamed.of──> the same modules; the weights of each layer are views of a mapped file

The operating system reads a page of the file when it is first looked at, so that every computation
is the very one that a resident base would do, on the same numbers. What this adds is *when*: while
a layer computes, a thread reads the next one (in the backward pass: the one below), and what was
used before is given back. So a base larger than memory can be computed with, and two of its layers
are in memory at a time.

The file is made once from the model's own, in the format that is computed in, laid out so that
matrices of one input lie one under another. It is for processors only, and for weights that do not
change: one that was changed would be read again as it was.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor, nn

from tunesmith.errors import ModelError, RecipeError
from tunesmith.models.atomic import locked, written_aside
from tunesmith.models.fingerprint import cache_root

if TYPE_CHECKING:
    from tunesmith.models.anatomy import Anatomy
    from tunesmith.models.resolve import Resolved


@dataclass(frozen=True)
class _Weight:
    """One weight: its name in the layer, and where it lies in the layer's bytes."""

    name: str
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Streamed:
    """The layers of one model, on disk.

    Attributes:
        layer_bytes: of each layer, bottom up.
    """

    def __init__(
        self, file: Path, module: nn.Module, names: Sequence[str], layouts: list[list[_Weight]]
    ) -> None:
        self._module, self._names, self._weights = module, tuple(names), layouts
        layers = [module.get_submodule(name) for name in names]
        self.layer_bytes = tuple(_rounded(weights[-1]) for weights in self._weights)
        self._starts = [sum(self.layer_bytes[:number]) for number in range(len(layers))]
        with file.open("rb") as opened:
            access = mmap.PROT_READ | mmap.PROT_WRITE  # private: nothing is written to the file
            self._map = mmap.mmap(opened.fileno(), 0, mmap.MAP_PRIVATE, access)
        self._whole = torch.frombuffer(self._map, dtype=torch.uint8)
        self._resident: set[int] = set()
        self._coming: dict[int, Future[Any]] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="layers")
        for number, layer in enumerate(layers):
            self._take_over(number, layer)

    @classmethod
    def of(
        cls, module: nn.Module, anatomy: Anatomy, source: Resolved, dtype: torch.dtype
    ) -> Streamed:
        """Put the layers of a loaded model on disk, and let them be read from there.

        Args:
            module: its weights are read once where the file is not there yet, layer by layer.
            dtype: the format to keep them in.

        Raises:
            ModelError: a weight is not finite.
            RecipeError: layers share weights.
        """
        names = [layer.name for layer in anatomy.layers]
        layers = [module.get_submodule(name) for name in names]
        own = [id(parameter) for layer in layers for parameter in layer.parameters()]
        if len(set(own)) < len(own):
            raise RecipeError(
                f"The layers of a {anatomy.family} model share weights, so that none can be given"
                " back before another is computed.",
                where="base.stream",
                fix="Leave it out.",
            )
        layouts = [_layout(layer, dtype) for layer in layers]
        key = hashlib.sha256(f"{source.fingerprint} {names} {layouts}".encode()).hexdigest()[:16]
        folder = cache_root() / "streamed" / key
        with locked(folder):
            if not folder.is_dir():
                with written_aside(folder) as aside, (aside / "layers").open("wb") as file:
                    for layer, layout in zip(layers, layouts, strict=True):
                        _write(layer, layout, file, source)
        held = set(own)
        for parameter in module.parameters():
            if parameter.is_floating_point() and id(parameter) not in held:
                parameter.data = parameter.data.to(dtype)
        return cls(folder / "layers", module, names, layouts)

    @property
    def window_bytes(self) -> int:
        """Bytes of layers that are in memory at once: one that computes, and the next."""
        pairs = zip(self.layer_bytes, (*self.layer_bytes[1:], 0), strict=True)
        return max(one + next_ for one, next_ in pairs)

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in the file."""
        first = self._whole.data_ptr()
        return first <= tensor.data_ptr() < first + len(self._whole)

    def facts(self) -> dict[str, str]:
        """Return what the report says of the base, by heading."""
        whole, window = sum(self.layer_bytes) / 1e9, self.window_bytes / 1e9
        return {
            "Base": f"{len(self.layer_bytes)} layers ({whole:.2g} GB) on disk, read one by one,"
            f" {window:.2g} GB of them in memory at a time"
        }

    def check_unchanged(self) -> None:
        """Refuse weights of the base that are to learn, or were replaced.

        Raises:
            RecipeError: names the layer.
        """
        for name, weights in zip(self._names, self._weights, strict=True):
            parameters = self._module.get_submodule(name).parameters()
            own = [parameter for parameter in parameters if self.holds(parameter)]
            if len(own) < len(weights) or any(parameter.requires_grad for parameter in own):
                raise RecipeError(
                    f"Weights of {name} would change, but they lie on disk and are read from there"
                    " again and again.",
                    where="base.stream",
                    fix="Let adapters learn beside them (technique lora), or leave it out.",
                )
        self.release()

    def release(self) -> None:
        """Give back all memory that the layers take; they are read again when they are used."""
        for future in self._coming.values():
            future.result()
        self._coming.clear()
        self._resident.clear()
        self._map.madvise(mmap.MADV_DONTNEED)

    def _take_over(self, number: int, layer: nn.Module) -> None:
        parameters = dict(layer.named_parameters())
        bytes_ = self._bytes(number)
        for weight in self._weights[number]:
            found = bytes_[weight.start : weight.start + weight.size]
            parameters[weight.name].data = found.view(weight.dtype).view(weight.shape)
        last = len(self._names) - 1

        def before(part: nn.Module, given: Any) -> None:
            # In use, the first layer comes behind the last: of the next batch, or the next token.
            following = number + 1 if number < last or torch.is_grad_enabled() else 0
            self._enter(number, following)

        def behind(part: nn.Module, given: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if isinstance(hidden, Tensor) and hidden.requires_grad:
                gradient_comes: Any = hidden.register_hook
                gradient_comes(lambda gradient: self._enter(number, number - 1))

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(behind)

    def _enter(self, number: int, following: int) -> None:
        """Layer `number` begins to compute: give back what is behind it, read what follows."""
        wanted = {number, following}
        for other in self._resident - wanted:
            if other in self._coming:
                self._coming.pop(other).result()
            self._map.madvise(mmap.MADV_DONTNEED, self._starts[other], self.layer_bytes[other])
        self._resident &= wanted
        self._resident.add(number)
        if 0 <= following < len(self._names) and following not in self._resident:
            self._resident.add(following)
            self._coming[following] = self._reader.submit(_touch, self._bytes(following))

    def _bytes(self, number: int) -> Tensor:
        start = self._starts[number]
        return self._whole[start : start + self.layer_bytes[number]]


def _touch(bytes_: Tensor) -> None:
    """Look at a byte of each page, so that it is read; others compute meanwhile."""
    with torch.no_grad():
        bytes_[:: mmap.PAGESIZE].max()


def _give_back(tensor: Tensor) -> None:
    """Let go of the whole pages of a tensor that nobody reads any more."""
    page, first = mmap.PAGESIZE, tensor.data_ptr()
    start, end = first + -first % page, (first + tensor.nbytes) // page * page
    if end > start:
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _layout(layer: nn.Module, dtype: torch.dtype) -> list[_Weight]:
    """Lay out a layer's weights: matrices first, one under another as they are registered."""
    found: list[_Weight] = []
    place = 0
    named = sorted(layer.named_parameters(), key=lambda pair: pair[1].ndim < 2)
    for name, parameter in named:
        kept = dtype if parameter.is_floating_point() else parameter.dtype
        place += -place % kept.itemsize
        found.append(_Weight(name, place, kept, tuple(parameter.shape)))
        place += found[-1].size
    return found


def _rounded(last: _Weight) -> int:
    """The bytes of a layer, in whole pages."""
    size = last.start + last.size
    return size + -size % mmap.PAGESIZE


def _write(layer: nn.Module, layout: list[_Weight], file: BinaryIO, source: Resolved) -> None:
    parameters = dict(layer.named_parameters())
    began = file.tell()
    for weight in layout:
        parameter = parameters[weight.name]
        if not torch.isfinite(parameter).all():
            raise ModelError(
                f"The weights of {source.name} are not all finite numbers: {weight.name}.",
                where=str(source.path),
                fix="Fetch the model again, or choose another precision or model.",
            )
        file.write(b"\0" * (began + weight.start - file.tell()))
        flat = parameter.detach().to(weight.dtype).contiguous().reshape(-1)
        file.write(flat.view(torch.uint8).numpy().data)
        _give_back(parameter.data)
    file.write(b"\0" * (began + _rounded(layout[-1]) - file.tell()))
