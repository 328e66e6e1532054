"""Every weight learns; the result is a whole model that transformers loads.

The strongest and the most forgetful technique: it needs the memory of an optimiser over all
parameters, and a lower learning rate than adapters do. With `layer_decay` lower layers, which hold
what is general, learn more slowly than upper ones, and with `gradual` they begin to learn later
(discriminative fine-tuning and gradual unfreezing: Howard & Ruder, 2018, arXiv:1801.06146).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import InTurn, ParameterGroup

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.models.model import Model


@TECHNIQUES.register("full")
class Full(InTurn):
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

    def prepare(self, model: Model) -> None:
        """Mark every parameter, in float32, but those that are computed and not learnt."""
        from tunesmith.models.learning import learn_all

        learn_all(model, embeddings=self.options.embeddings)

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
