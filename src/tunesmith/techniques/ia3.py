"""IA3: vectors rescale keys, values and the inner values of the feed-forward part; nothing else.

    keys * l_k      values * l_v      down(l_ff * inner)         the vectors begin at one

The fewest parameters of all adapters, a few vectors a layer (Liu et al., 2022, arXiv:2205.05638).
The result is a PEFT adapter. It wants a much higher learning rate than LoRA does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import PeftTechnique

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@TECHNIQUES.register("ia3")
class Ia3(PeftTechnique):
    """Vectors that rescale what attention and feed-forward pass on."""

    class Options(BaseModel):
        """What is rescaled."""

        model_config = ConfigDict(extra="forbid")

        targets: Literal["auto"] | Annotated[list[str], Field(min_length=1)] = Field(
            default="auto",
            description="linear maps whose values are rescaled: auto (keys, values, and the last "
            "map of the feed-forward part, whose inputs are), or names such as `k_proj`",
        )

    def config(self, model: Model) -> Any:
        """Return PEFT's configuration.

        Raises:
            RecipeError: a target is not a linear map of this model.
        """
        from peft import IA3Config

        from tunesmith.models.adapters import choose_targets, placed, rescaled, short_names

        if self.options.targets == "auto":
            attention, inner = rescaled(model)
            wanted = [*attention, *inner]
        else:
            wanted = choose_targets(model, self.options.targets)
            within = {name for layer in model.anatomy.layers for name in layer.feed_forward}
            inner = [name for name in wanted if name in within]
        return IA3Config(
            **placed(model, wanted),
            feedforward_modules=short_names(model, inner),
        )
