"""GaLore: every weight learns, and the optimiser's moments are kept in a few directions of each.

    memory of the moments: r (m + 2 n) numbers for a matrix of m <= n rows and columns, not 2 m n

(Zhao et al., 2024, arXiv:2403.03507; `engine/projection.py` has the update.) The weights, their
gradients and what passes through them take as much as with `full`: it is the moments that shrink.
Every `every` updates the directions are found anew by a singular value decomposition of every
matrix, which takes time on a processor. Embeddings learn with moments of their own size, as the
authors have it. The result is a whole model that transformers loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import ParameterGroup, Projection, WholeModel

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@TECHNIQUES.register("galore")
class GaLore(WholeModel):
    """Every weight learns, with the optimiser's moments in a few directions of each matrix."""

    class Options(BaseModel):
        """How many directions, and how often they are found anew."""

        model_config = ConfigDict(extra="forbid")

        rank: int = Field(
            default=128, ge=1, le=4096, description="directions of each matrix that have moments"
        )
        every: int = Field(
            default=200, ge=1, description="updates after which the directions are found anew"
        )
        scale: float = Field(
            default=0.25, gt=0, le=100, description="what the update of a matrix is multiplied by"
        )
        embeddings: bool = Field(
            default=True,
            description="whether the token embeddings learn (and the vocabulary layer, where the "
            "two share their weights)",
        )

    def prepare(self, model: Model) -> None:
        """Mark every parameter, in float32."""
        from tunesmith.models.learning import learn_all

        learn_all(model, embeddings=self.options.embeddings)

    def parameter_groups(self, model: Model) -> list[ParameterGroup]:
        """Return what learns, grouped: matrices of the layers apart, no decay on vectors."""
        inside = {f"{name}.weight" for layer in model.anatomy.layers for name in layer.linears}
        decayed, kept = super().parameter_groups(model)
        projected = {n: p for n, p in decayed.parameters.items() if n in inside}
        rest = {n: p for n, p in decayed.parameters.items() if n not in inside}
        projection = Projection(self.options.rank, self.options.every, self.options.scale)
        return [ParameterGroup(projected, projection=projection), ParameterGroup(rest), kept]
