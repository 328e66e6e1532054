"""Every weight learns; the result is a whole model that transformers loads.

The strongest and the most forgetful technique: it needs the memory of an optimiser over all
parameters, and a lower learning rate than adapters do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import Technique

if TYPE_CHECKING:
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

    def prepare(self, model: Model) -> None:
        """Mark every parameter, in float32."""
        from tunesmith.models.learning import freeze, learn

        freeze(model.module)
        learn(model.module)
        if not self.options.embeddings:
            freeze(model.module.get_submodule(model.anatomy.embeddings))

    def save(self, model: Model, folder: Path) -> None:
        """Write the whole model, as transformers reads it."""
        from tunesmith.models.saving import save_full

        save_full(model, folder)
