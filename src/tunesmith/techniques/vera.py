"""Vector-based random matrices (VeRA): the low-rank factors are random and shared, vectors learn.

    y = W x + b * (B (d * (A x)))       A, B frozen, one pair for all maps;  d (R), b (D) learn

So a higher rank costs next to nothing (Kopiczko et al., 2024, arXiv:2310.11454). b starts at zero,
so that the model starts as it was. The result is a PEFT adapter; the random factors are saved with
it. It wants a higher learning rate than LoRA does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import ALL_LINEAR, PeftTechnique, Targets

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@TECHNIQUES.register("vera")
class Vera(PeftTechnique):
    """Vectors that rescale random low-rank maps beside those of the layers."""

    in_sentence_transformers = False

    class Options(BaseModel):
        """The size of the random factors, and where they stand."""

        model_config = ConfigDict(extra="forbid")

        rank: int = Field(default=256, ge=1, le=8192, description="rank R of the random factors")
        start: float = Field(
            default=0.1,
            gt=0,
            le=10,
            description="value that the vectors d begin with; the authors use 1e-7 to 1",
        )
        dropout: float = Field(
            default=0.0, ge=0.0, lt=1.0, description="share of an adapter's inputs set to zero"
        )
        targets: Targets = Field(
            default=ALL_LINEAR,
            description="linear maps that get an adapter: all of the layers', or names such as "
            "`q_proj` or `mlp.up_proj`",
        )

    def config(self, model: Model) -> Any:
        """Return PEFT's configuration.

        Raises:
            RecipeError: a target is not a linear map of this model.
        """
        import torch
        from peft import VeraConfig

        from tunesmith.models.adapters import choose_targets, placed

        wanted = choose_targets(model, self.options.targets)
        return VeraConfig(
            **placed(model, wanted),
            r=self.options.rank,
            d_initial=self.options.start,
            vera_dropout=self.options.dropout,
            projection_prng_key=int(torch.randint(1 << 31, ())),
            save_projection=True,
        )
