"""Activation checkpointing: layers whose inner activations are computed again in the backward pass.

    LayerCheckpoints(model).choose(Checkpointed(layers=12))

A checkpointed layer keeps its input only (Chen et al. 2016); on a GPU that input can wait in the
memory of the host. The second computation repeats the first exactly: the same documents, the same
number format, the same dropout (torch keeps the generator's state), so loss and gradients are equal
bit for bit. Which number of layers to choose is `training/memory.py`'s question.

Layers are taken from the bottom of those that a gradient passes through. A layer is computed again
while everything below it is still kept and everything above it is gone: from the bottom up, the
second computations fall where least is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from tunesmith.engine.packed_pairs import pairs_again
from tunesmith.engine.packing import row_again
from tunesmith.models.model import Model
from tunesmith.models.quantised import stored_tensors


@dataclass(frozen=True)
class Checkpointed:
    """A choice.

    Attributes:
        layers: how many layers are computed again.
        offload: whether their inputs wait in the memory of the host (without effect on the CPU).
    """

    layers: int = 0
    offload: bool = False


@dataclass(frozen=True)
class Held:
    """Bytes that a backward pass holds of the forward pass.

    Attributes:
        elsewhere: outside of the layers.
        inside: of each layer that a gradient passes through, bottom up.
        inputs: the hidden state that goes into each of them.
    """

    elsewhere: int
    inside: tuple[int, ...]
    inputs: tuple[int, ...]


class LayerCheckpoints:
    """The layers of a model that a gradient passes through, and which of them are checkpointed.

    Attributes:
        layers: their names, bottom up.
        chosen: the choice in force.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.layers = learning_layers(model)
        self.chosen = Checkpointed()

    def choose(self, chosen: Checkpointed) -> None:
        """Checkpoint these layers and no others.

        Raises:
            ValueError: there are not so many layers that a gradient passes through.
        """
        if not 0 <= chosen.layers <= len(self.layers):
            raise ValueError(f"{chosen.layers} of {len(self.layers)} layers cannot be checkpointed")
        for place, name in enumerate(self.layers):
            module = self._model.module.get_submodule(name)
            stock = vars(module).get("forward")
            if isinstance(stock, _Twice):
                stock.restore()
            if place < chosen.layers:
                _Twice(self._model.module, module, chosen.offload).install()
        self.chosen = chosen

    def measure(self, compute: Callable[[], object]) -> Held:
        """Run a forward pass with gradients, and count what it keeps of each layer.

        Args:
            compute: runs the model's body; nothing may be checkpointed meanwhile.
        """
        counter = _Counter(self._model)
        layers = [self._model.module.get_submodule(name) for name in self.layers]
        handles = [layer.register_forward_pre_hook(counter.enter) for layer in layers]
        handles += [layer.register_forward_hook(counter.leave) for layer in layers]
        parts: Iterable[Any] = self._model.module.modules()
        dropping = [part for part in parts if getattr(part, "layerdrop", 0)]
        rates = [part.layerdrop for part in dropping]
        for part in dropping:  # whole layers are dropped at random: count them all
            part.layerdrop = 0.0
        try:
            with torch.enable_grad(), saved_tensors_hooks(counter.count, lambda packed: packed):
                compute()
        finally:
            for handle in handles:
                handle.remove()
            for part, rate in zip(dropping, rates, strict=True):
                part.layerdrop = rate
            counter.let_go()
        return Held(counter.elsewhere, tuple(counter.inside), tuple(counter.inputs))


class _Counter:
    """Adds up the storages that autograd saves, each once; parameters and buffers are not new."""

    def __init__(self, model: Model) -> None:
        owned = stored_tensors(model.module)
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in owned}
        self._alive: list[Tensor] = []
        self._within = False
        self.elsewhere = 0
        self.inside: list[int] = []
        self.inputs: list[int] = []

    def enter(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self.inputs.append(args[0].nbytes if args else 0)
        self.inside.append(0)
        self._within = True

    def leave(self, layer: nn.Module, args: tuple[Any, ...], output: object) -> None:
        self._within = False

    def let_go(self) -> None:
        """Let go of the tensors: PyTorch keeps a reference to its hooks, and so to this counter."""
        self._alive.clear()

    def count(self, tensor: Tensor) -> None:
        """Count a tensor that is saved; in its place nothing is, since no backward pass follows."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._alive.append(tensor)  # freed, its address would be given to another
            if self._within:
                self.inside[-1] += storage.nbytes()
            else:
                self.elsewhere += storage.nbytes()


class _Twice:
    """The `forward` of one layer, computed again in the backward pass."""

    def __init__(self, whole: nn.Module, layer: nn.Module, offload: bool) -> None:
        self._whole = whole
        self._layer = layer
        self._own = vars(layer).get("forward")
        self._stock = layer.forward
        self._offload = offload

    def install(self) -> None:
        vars(self._layer)["forward"] = self

    def restore(self) -> None:
        del vars(self._layer)["forward"]
        if self._own is not None:
            vars(self._layer)["forward"] = self._own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._stock(*args, **kwargs)
        again = pairs_again() or row_again(self._whole)
        with self._waiting(args):
            return checkpoint(
                self._stock,
                *args,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), again()),
                **kwargs,
            )

    def _waiting(self, args: tuple[Any, ...]) -> AbstractContextManager[Any]:
        on_device = any(isinstance(arg, Tensor) and arg.is_cuda for arg in args)
        if not (self._offload and on_device):
            return nullcontext()
        waiting: AbstractContextManager[Any] = save_on_cpu(pin_memory=True)
        return waiting


def learning_layers(model: Model) -> tuple[str, ...]:
    """Return the layers that a gradient passes through: from the first that learns to the last.

    None where keys and values before the text are learnt: computed again, a layer would add them to
    its cache a second time.
    """
    anatomy = model.anatomy
    if model.virtual and model.virtual.cached:
        return ()
    names = tuple(layer.name for layer in anatomy.layers)
    learns = [
        any(parameter.requires_grad for parameter in model.module.get_submodule(name).parameters())
        for name in (anatomy.embeddings, *names)
    ]
    if learns[0]:
        return names
    return names[learns.index(True) - 1 :] if True in learns else ()
