"""Orthogonal fine-tuning (OFT): each weight's inputs are rotated, block by block.

    y = W (R x)        R is block-diagonal and orthogonal, and begins as the identity

Angles between neurons stay as they were, which keeps what the model knows (Qiu et al., 2023,
arXiv:2306.07280; computed on the inputs as in Qiu et al., 2025, arXiv:2506.19847). The result is a
PEFT adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import ALL_LINEAR, PeftTechnique, Targets

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@TECHNIQUES.register("oft")
class Oft(PeftTechnique):
    """Rotations of what goes into the linear maps of the layers."""

    class Options(BaseModel):
        """The blocks' size and place."""

        model_config = ConfigDict(extra="forbid")

        block_size: int = Field(
            default=32,
            ge=2,
            le=1024,
            description="inputs that are rotated together; the nearest size that divides the "
            "inputs of a map is taken",
        )
        shared: bool = Field(default=False, description="whether all blocks of a map are one")
        targets: Targets = Field(
            default=ALL_LINEAR,
            description="linear maps that get a rotation: all of the layers', or names such as "
            "`q_proj` or `mlp.up_proj`",
        )

    def config(self, model: Model) -> Any:
        """Return PEFT's configuration.

        Raises:
            RecipeError: a target is not a linear map of this model.
        """
        from peft import OFTConfig

        from tunesmith.models.adapters import choose_targets, placed

        wanted = choose_targets(model, self.options.targets)
        return OFTConfig(
            **placed(model, wanted),
            r=0,
            oft_block_size=self.options.block_size,
            block_share=self.options.shared,
        )
