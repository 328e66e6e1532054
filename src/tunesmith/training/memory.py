"""How much memory this process holds, and how much a training step will need."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from tunesmith.models.model import Model


def resident_bytes() -> int:
    """Return the bytes of memory that this process holds now (on a GPU: of its memory)."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Return the most memory that this process has held so far, in bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class MemoryEstimate:
    """Predicted bytes at the peak of a training step, by what they are for."""

    libraries: int
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.libraries + self.weights + self.gradients + self.optimizer + self.activations


_LIBRARIES = 600 * 2**20
"""Resident size of Python with torch, transformers and PEFT imported, on Linux."""


def estimate_memory(model: Model, *, tokens_per_batch: int, bytes_per_value: int) -> MemoryEstimate:
    """Predict the peak of a training step.

    Args:
        tokens_per_batch: tokens in the largest micro-batch.
        bytes_per_value: of the format in which activations are kept.

    Activations: for each layer that a gradient passes through, what its linear maps and
    element-wise parts keep of each token (Korthikanti et al. 2022, counted from the layer's own
    maps instead of a fixed factor).
    """
    parameters = list(model.module.parameters())
    learnt = sum(p.numel() for p in parameters if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in parameters)
    widths = 0
    for layer in model.anatomy.layers:
        for name in layer.linears:
            weight: Any = model.module.get_submodule(name).weight
            widths += sum(weight.shape)
    return MemoryEstimate(
        libraries=_LIBRARIES,
        weights=weights,
        gradients=4 * learnt,
        optimizer=8 * learnt,
        activations=widths * tokens_per_batch * bytes_per_value,
    )
