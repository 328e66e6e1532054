"""How far below the output each part of a model lies, and who learns when layers are freed in turn.

    anatomy ──depths──> layers above, by the beginning of a parameter's name
    learning parameters, steps ──Unfreezing──> who learns in a step

Gradual unfreezing: what is behind the last layer and that layer learn first, then one more layer
after another down to the embeddings (Howard & Ruder, 2018, arXiv:1801.06146). Who learns is a
function of the step alone. It knows no optimiser.
"""

from __future__ import annotations

from torch import nn

from tunesmith.models.model import Model


def depths(model: Model) -> dict[str, int]:
    """Return how many layers lie above each part of the model, by the beginning of its names.

    What lies below the layers of a stack (embeddings, positions, their norms) is one deeper than
    the lowest of them. An encoder lies below its decoder.
    """
    anatomy = model.anatomy
    count = len(anatomy.layers)
    depths = {f"{layer.name}.": count - place for place, layer in enumerate(anatomy.layers)}
    depths |= dict.fromkeys(
        (f"{name}." for name in (*anatomy.task_modules, *anatomy.final_norms)), 0
    )
    if anatomy.output is not None and not anatomy.tied:
        depths[f"{anatomy.output}."] = 0
    if anatomy.decoder is not None:
        written = sum(layer.name.startswith(f"{anatomy.decoder}.") for layer in anatomy.layers)
        depths |= dict.fromkeys((f"{name}." for name in anatomy.encoder_norms), written)
        depths[f"{anatomy.decoder}."] = written + 1
    depths[f"{anatomy.body}." if anatomy.body else ""] = count + 1
    return depths


def depth_of(name: str, found: dict[str, int]) -> int:
    """Return the depth of a parameter, given what `depths` returned."""
    return next((depth for part, depth in found.items() if name.startswith(part)), 0)


class Unfreezing:
    """Lets layers learn from the top down, one after another.

    Args:
        model: whose learning parameters are marked.
        share: of the steps, after which everything learns.
        steps: how many there are.
    """

    def __init__(self, model: Model, share: float, steps: int) -> None:
        found = depths(model)
        learnt = {n: p for n, p in model.module.named_parameters() if p.requires_grad}
        self._by_depth: dict[int, list[nn.Parameter]] = {}
        for name, parameter in learnt.items():
            depth = max(1, depth_of(name, found))  # what is above the last layer learns with it
            self._by_depth.setdefault(depth, []).append(parameter)
        groups = max(1, len(self._by_depth) - 1)
        self._begins = {
            depth: min(steps - 1, round(share * steps * place / groups))
            for place, depth in enumerate(sorted(self._by_depth))
        }

    def at(self, step: int) -> None:
        """Mark who learns in this step, counted from 0."""
        for depth, parameters in self._by_depth.items():
            for parameter in parameters:
                parameter.requires_grad_(step >= self._begins[depth])
