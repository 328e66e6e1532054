"""Every weight learns; the result is a whole model that transformers loads.

The strongest and the most forgetful technique: it needs the memory of an optimiser over all
parameters, and a lower learning rate than adapters do. With `layer_decay` lower layers, which hold
what is general, learn more slowly than upper ones, and with `gradual` they begin to learn later
(discriminative fine-tuning and gradual unfreezing: Howard & Ruder, 2018, arXiv:1801.06146).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import ParameterGroup, Technique

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.models.depths import Unfreezing
    from tunesmith.models.model import Model


@TECHNIQUES.register("full")
class Full(Technique):
    """Every weight learns."""

    class Options(BaseModel):
        """What stays as it was."""

        model_config = ConfigDict(extra="forbid")

        embeddings: bool = Field(
            default=True,
            description="whether the token embeddings learn (and the vocabulary layer, where the "
            "two share their weights)",
        )
        layer_decay: float = Field(
            default=1.0,
            gt=0,
            le=1,
            description="factor by which the learning rate falls from each layer to the one below; "
            "what is behind the last layer learns at the full rate, the embeddings slowest",
        )
        gradual: float = Field(
            default=0.0,
            ge=0,
            lt=1,
            description="share of the steps in which layers begin to learn one after another, from "
            "the top down (gradual unfreezing); 0: all learn from the first step",
        )

    _unfreezing: Unfreezing | None = None

    def prepare(self, model: Model) -> None:
        """Mark every parameter, in float32, but those that are computed and not learnt."""
        from tunesmith.models.learning import freeze, learn

        freeze(model.module)
        learn(model.module)
        for name in model.fixed:
            model.module.get_parameter(name).requires_grad_(False)
        if not self.options.embeddings:
            freeze(model.module.get_submodule(model.anatomy.embeddings))

    def parameter_groups(self, model: Model) -> list[ParameterGroup]:
        """Return what learns, grouped: a rate for each depth, no decay on vectors."""
        groups = super().parameter_groups(model)
        if self.options.layer_decay == 1.0:
            return groups
        from tunesmith.models.depths import depth_of, depths

        found_at = depths(model)
        split: list[ParameterGroup] = []
        for group in groups:
            by_depth: dict[int, dict[str, nn.Parameter]] = {}
            for name, parameter in group.parameters.items():
                by_depth.setdefault(depth_of(name, found_at), {})[name] = parameter
            split += [
                ParameterGroup(found, self.options.layer_decay**depth, group.weight_decay)
                for depth, found in sorted(by_depth.items())
            ]
        return split

    def begin(self, model: Model, steps: int) -> None:
        """Lay out when which layer begins to learn."""
        from tunesmith.models.depths import Unfreezing

        share = self.options.gradual
        self._unfreezing = Unfreezing(model, share, steps) if share else None

    def before_step(self, step: int) -> None:
        """Let those layers learn whose turn has come."""
        if self._unfreezing is not None:
            self._unfreezing.at(step)

    def save(self, model: Model, folder: Path) -> None:
        """Write the whole model, as transformers reads it."""
        from tunesmith.models.saving import save_full

        save_full(model, folder)
