"""Chooses the implementation of attention that transformers uses.

It is about speed and memory: the results agree up to rounding. Packed batches take Tunesmith's own
attention whatever is chosen here; it counts where records are padded (`training.packing: false`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import RecipeError
from tunesmith.models.surgery.base import Operation
from tunesmith.registry import OPERATIONS

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@OPERATIONS.register("attention")
class Attention(Operation):
    """Choose the implementation of attention."""

    works_on: ClassVar[Literal["files", "loaded", "marked"]] = "loaded"
    replaces: ClassVar[bool] = True

    class Options(BaseModel):
        """Which one."""

        model_config = ConfigDict(extra="forbid")

        implementation: Literal["eager", "sdpa", "flex_attention", "flash_attention_2"] = Field(
            description="transformers' name of it"
        )

    def settle(self, model: Model) -> str:
        """Switch the model over.

        Raises:
            RecipeError: the family or this machine has no such implementation.
        """
        from tunesmith.models.heads import FeatureModel
        from tunesmith.models.quiet import quiet

        module: Any = model.module.body if isinstance(model.module, FeatureModel) else model.module
        before = module.config._attn_implementation
        wanted = self.options.implementation
        try:
            with quiet():
                module.set_attn_implementation(wanted)
        except (ValueError, ImportError) as error:
            raise RecipeError(
                f"{model.source.name} cannot attend by {wanted!r}: {str(error).splitlines()[0]}",
                where="surgery.attention.implementation",
                fix="Choose eager or sdpa.",
            ) from error
        if module.config._attn_implementation != wanted:
            raise RecipeError(
                f"The family {model.anatomy.family} does not attend by {wanted!r}.",
                where="surgery.attention.implementation",
                fix="Choose eager or sdpa.",
            )
        return f"Attention by {wanted}, before {before}."
