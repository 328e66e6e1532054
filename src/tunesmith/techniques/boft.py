"""Butterfly orthogonal fine-tuning (BOFT): rotations of several sparse factors.

    y = (W R_1 ... R_m) x       each R is block-diagonal and orthogonal, on inputs in another order

Several sparse rotations reach every pair of inputs with fewer numbers than one dense rotation (Liu
et al., 2024, arXiv:2311.06243); one factor is OFT on small blocks. The rotated weight is formed
anew in every pass, which takes time, and PEFT keeps a permutation of inputs times inputs for each
map, which takes as much memory as the map. The result is a PEFT adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import RecipeError
from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import ALL_LINEAR, PeftTechnique, Targets

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@TECHNIQUES.register("boft")
class Boft(PeftTechnique):
    """Rotations by several sparse factors of what goes into the linear maps of the layers."""

    class Options(BaseModel):
        """The blocks' size, and how many factors."""

        model_config = ConfigDict(extra="forbid")

        block_size: int = Field(
            default=4,
            ge=2,
            le=1024,
            description="inputs that one block rotates together; it must divide the inputs of "
            "every target",
        )
        factors: int = Field(
            default=1,
            ge=1,
            le=16,
            description="sparse factors; each doubles the distance that a rotation reaches. More "
            "than 1 needs PEFT's CUDA extension, which is compiled when it is first used",
        )
        dropout: float = Field(
            default=0.0,
            ge=0.0,
            lt=1.0,
            description="share of blocks that are left out in each pass of training",
        )
        targets: Targets = Field(
            default=ALL_LINEAR,
            description="linear maps that get a rotation: all of the layers', or names such as "
            "`q_proj` or `mlp.up_proj`",
        )

    def config(self, model: Model) -> Any:
        """Return PEFT's configuration.

        Raises:
            RecipeError: a target is not a linear map of this model, or PEFT can use but one factor
                on this machine.
        """
        from peft import BOFTConfig
        from peft.tuners.boft.layer import get_fbd_cuda

        from tunesmith.models.adapters import choose_targets, placed
        from tunesmith.models.quiet import quiet

        if self.options.factors > 1:
            with quiet():
                extension = get_fbd_cuda()
            if extension is None:  # PEFT would go on with one factor
                raise RecipeError(
                    f"{self.options.factors} factors need PEFT's CUDA extension, which cannot be "
                    "compiled on this machine.",
                    where="technique.factors",
                    fix="Set it to 1, or choose the technique oft.",
                )
        wanted = choose_targets(model, self.options.targets)
        return BOFTConfig(
            **placed(model, wanted),
            boft_block_size=self.options.block_size,
            boft_n_butterfly_factor=self.options.factors,
            boft_dropout=self.options.dropout,
        )
