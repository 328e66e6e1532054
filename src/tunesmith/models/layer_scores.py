"""Which layers are worth training: a score for each, from the gradients of records or from weights.

    gradient   how much of a layer's gradient all records agree on, against how much they differ:
               |E g|^2 / (E |g|^2 - |E g|^2)
    fisher     trace of the empirical Fisher information, E |g|^2, for each parameter
    spectrum   sum of the singular values of a weight above what random numbers of its size would
               give, against the sum of those below, and divided by the largest one
               (Spectrum: Hartford et al., 2024, arXiv:2406.06623)

High is better in each. Gradients are of the loss of a few batches, at the weights as they are. It
knows no engine: whoever runs the passes calls `observe` after each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.models.anatomy import Anatomy


class GradientStatistics:
    """Sums over batches of the gradients of every layer: takes the memory of two gradients.

    Args:
        module: a model, in which nothing else than the layers is looked at.
        anatomy: of it.
    """

    def __init__(self, module: nn.Module, anatomy: Anatomy) -> None:
        self._layers = [
            list(module.get_submodule(layer.name).parameters()) for layer in anatomy.layers
        ]
        self._sums: list[list[Tensor]] = [
            [torch.zeros_like(p, dtype=torch.float32) for p in layer] for layer in self._layers
        ]
        self._squares = [0.0] * len(self._layers)
        self.batches = 0

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Within, gradients of the layers are computed; afterwards nothing learns."""
        for layer in self._layers:
            for parameter in layer:
                parameter.requires_grad_(True)
        try:
            yield
        finally:
            for layer in self._layers:
                for parameter in layer:
                    parameter.grad = None
                    parameter.requires_grad_(False)

    def observe(self) -> None:
        """Take the gradients of one batch, and clear them."""
        self.batches += 1
        for number, (layer, sums) in enumerate(zip(self._layers, self._sums, strict=True)):
            for parameter, total in zip(layer, sums, strict=True):
                if parameter.grad is not None:
                    gradient = parameter.grad.float()
                    total += gradient
                    self._squares[number] += float(gradient.square().sum())
                    parameter.grad = None

    def signal_to_noise(self) -> list[float]:
        """Return the score `gradient` of each layer; needs two batches at least."""
        scores = []
        for sums, squares in zip(self._sums, self._squares, strict=True):
            signal = sum(float((total / self.batches).square().sum()) for total in sums)
            noise = squares / self.batches - signal
            scores.append(signal / noise if noise > 0 else 0.0)
        return scores

    def fisher(self) -> list[float]:
        """Return the score `fisher` of each layer."""
        return [
            squares / self.batches / sum(parameter.numel() for parameter in layer)
            for layer, squares in zip(self._layers, self._squares, strict=True)
        ]


@torch.no_grad()
def spectrum(module: nn.Module, anatomy: Anatomy) -> list[float]:
    """Return the score `spectrum` of each layer: the mean over its linear maps.

    Each kind of map (all query projections, say) counts alike: its values are taken relative to
    their mean over the layers.
    """
    layers = [_by_kind(module, layer.name, layer.linears) for layer in anatomy.layers]
    kinds = {kind for layer in layers for kind in layer}
    means = {
        kind: _mean([layer[kind] for layer in layers if kind in layer]) or 1.0 for kind in kinds
    }
    return [_mean([value / means[kind] for kind, value in layer.items()]) for layer in layers]


def _by_kind(module: nn.Module, layer: str, names: Sequence[str]) -> dict[str, float]:
    parts: dict[str, Any] = {name: module.get_submodule(name) for name in names}
    return {
        name.removeprefix(f"{layer}."): _signal_ratio(part.weight) for name, part in parts.items()
    }


def _signal_ratio(weight: Tensor) -> float:
    values = torch.linalg.svdvals(weight.float())
    quarter, three = torch.quantile(values, torch.tensor([0.25, 0.75], device=values.device))
    spread = float(three - quarter) / 1.349  # of a normal distribution: its standard deviation
    ratio = min(weight.shape) / max(weight.shape)
    bound = spread * (1 + ratio**0.5)  # Marchenko & Pastur's edge
    signal, noise = (
        float(part.sum()) for part in (values[values > bound], values[values <= bound])
    )
    largest = float(values[0])
    if noise == 0.0:  # all of it is signal: count the least singular value as noise
        noise = float(values[-1]) or largest
    return signal / noise / largest if largest else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
