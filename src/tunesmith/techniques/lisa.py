"""LISA: all weights are trained, but only a few layers, drawn at random, at a time.

    steps 0 .. every-1:  embeddings, head, layers {3, 17}      then {0, 9}, then {17, 22} ...

(Layerwise importance sampled AdamW: Pan et al., 2024, arXiv:2403.17919.) What is not drawn is
frozen: it has no gradients, and its moments are let go, so that of the layers' gradients and
moments only a share is held at a time. The weights themselves take as much as with `full`, and so
does what passes through the layers above the lowest one that learns. Embeddings, the vocabulary
layer and the final norm always learn, which in a small model with a large vocabulary is most of it.
Which layers are drawn is a function of the seed and the step. The result is a whole model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import RecipeError
from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import ParameterGroup, WholeModel

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.models.model import Model


@TECHNIQUES.register("lisa")
class Lisa(WholeModel):
    """A few layers at a time, drawn at random, with embeddings and head."""

    class Options(BaseModel):
        """How many layers at a time, and for how long."""

        model_config = ConfigDict(extra="forbid")

        layers: int = Field(default=2, ge=1, description="layers that learn at the same time")
        every: int = Field(default=20, ge=1, description="steps after which other layers are drawn")
        embeddings: bool = Field(
            default=True,
            description="whether the token embeddings learn, all the time (and the vocabulary "
            "layer, where the two share their weights)",
        )

    def prepare(self, model: Model) -> None:
        """Mark every parameter, in float32; which layers learn in a step is drawn then.

        Raises:
            RecipeError: the model has fewer layers.
        """
        import torch

        from tunesmith.models.learning import learn_all

        count = len(model.anatomy.layers)
        if self.options.layers > count:
            raise RecipeError(
                f"{self.options.layers} layers are to learn at a time, but the model has {count}.",
                where="technique.layers",
                fix=f"Give 1 to {count}.",
            )
        learn_all(model, embeddings=self.options.embeddings)
        self._seed = int(torch.randint(1 << 31, ()))
        self._layers = [
            [p for p in model.module.get_submodule(layer.name).parameters() if p.requires_grad]
            for layer in model.anatomy.layers
        ]

    def parameter_groups(self, model: Model) -> list[ParameterGroup]:
        """Return what learns, grouped: the layers apart, no decay on vectors."""
        within = tuple(f"{layer.name}." for layer in model.anatomy.layers)
        share = self.options.layers / len(within)
        split: list[ParameterGroup] = []
        for group in super().parameter_groups(model):
            inside: dict[str, nn.Parameter] = {}
            outside: dict[str, nn.Parameter] = {}
            for name, parameter in group.parameters.items():
                (inside if name.startswith(within) else outside)[name] = parameter
            split += [
                ParameterGroup(outside, weight_decay=group.weight_decay),
                ParameterGroup(inside, weight_decay=group.weight_decay, at_once=share),
            ]
        return split

    def drawn(self, step: int) -> list[int]:
        """Return the layers that learn in a step, numbered from 0 at the bottom."""
        import torch

        mixed = self._seed * 1_000_003 + step // self.options.every
        generator = torch.Generator().manual_seed(mixed % 2**63)
        order: list[int] = torch.randperm(len(self._layers), generator=generator).tolist()
        return sorted(order[: self.options.layers])

    def before_step(self, step: int) -> None:
        """Let the layers of this step learn, and no others."""
        drawn = self.drawn(step)
        for number, parameters in enumerate(self._layers):
            for parameter in parameters:
                parameter.requires_grad_(number in drawn)

    def facts(self) -> dict[str, str]:
        """Say how many layers learn at a time."""
        every = self.options.every
        return {"Layers at a time": f"{self.options.layers}, drawn anew every {every} steps"}
