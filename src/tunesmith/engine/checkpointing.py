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

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from tunesmith.engine.packing import row_again
from tunesmith.models.model import Model


@dataclass(frozen=True)
class Checkpointed:
    """A choice.

    Attributes:
        layers: how many layers are computed again.
        offload: whether their inputs wait in the memory of the host (without effect on the CPU).
    """

    layers: int = 0
    offload: bool = False


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
        again = row_again(self._whole)
        with self._waiting(args):
            return checkpoint(
                self._stock,
                *args,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), again()),
                **kwargs,
            )

    def _waiting(self, args: tuple[Any, ...]) -> AbstractContextManager[Any]:
        on_device = any(isinstance(arg, torch.Tensor) and arg.is_cuda for arg in args)
        if not (self._offload and on_device):
            return nullcontext()
        waiting: AbstractContextManager[Any] = save_on_cpu(pin_memory=True)
        return waiting


def learning_layers(model: Model) -> tuple[str, ...]:
    """Return the layers that a gradient passes through: from the first that learns to the last."""
    anatomy = model.anatomy
    names = tuple(layer.name for layer in anatomy.layers)
    learns = [
        any(parameter.requires_grad for parameter in model.module.get_submodule(name).parameters())
        for name in (anatomy.embeddings, *names)
    ]
    if learns[0]:
        return names
    return names[learns.index(True) - 1 :] if True in learns else ()
