"""Lengthens (or shortens) the context of a model with rotary positions.

    linear   positions are pressed together (Chen et al., 2023, arXiv:2306.15595)
    ntk      the base of the angles grows, so that near positions stay as they are
    yarn     each frequency by its wavelength (Peng et al., 2023, arXiv:2309.00071)
    none     positions go on as they are: for a context that is shortened, or a long-trained base

The model still has to be trained on long texts. Scaling that depends on the length of the text at
hand (dynamic) is not offered: a record's result would depend on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import RecipeError
from tunesmith.models.surgery.base import Operation
from tunesmith.registry import OPERATIONS

if TYPE_CHECKING:
    from tunesmith.models.draft import Draft


@OPERATIONS.register("context")
class Context(Operation):
    """Change the length of the context."""

    class Options(BaseModel):
        """How long, and how positions are stretched."""

        model_config = ConfigDict(extra="forbid")

        length: int = Field(ge=2, description="the new context, in tokens")
        scaling: Literal["linear", "ntk", "yarn", "none"] = Field(
            default="yarn", description="how rotary positions are stretched"
        )

    def alter(self, draft: Draft) -> str:
        """Set the length and the scaling.

        Raises:
            RecipeError: positions are not rotary, or scaled already, or the family takes no such
                scaling.
        """
        from tunesmith.models.anatomy.positions import positions_of, rotary_parameters
        from tunesmith.models.anatomy.study import UNLIMITED

        config = draft.text_config
        positions = positions_of(draft.skeleton())
        old = draft.anatomy.context_length
        if positions.kind != "rotary" or old == UNLIMITED:
            raise RecipeError(
                f"The positions of this model are not rotary but {positions.kind}: its context "
                "cannot be stretched.",
                where="surgery.context",
                fix="Choose a model with rotary positions: `tunesmith inspect` says which.",
            )
        if positions.scaling is not None and self.options.scaling != "none":
            raise RecipeError(
                f"Its positions are scaled already ({positions.scaling}).",
                where="surgery.context.scaling",
                fix="Use `scaling: none`, or begin from the model before it was stretched.",
            )
        factor = self.options.length / old
        if factor <= 1 and self.options.scaling != "none":
            raise RecipeError(
                f"A context of {self.options.length} is not longer than the model's {old}: there "
                "is nothing to stretch.",
                where="surgery.context",
                fix="Raise `length`, or use `scaling: none`.",
            )
        for rope in _stretched(config, rotary_parameters(config)):
            self._scale(rope, factor, old, _rotated(config, rope))
        draft.set_option("max_position_embeddings", self.options.length)
        if draft.tokenizer is not None and draft.tokenizer.model_max_length < self.options.length:
            draft.tokenizer.model_max_length = self.options.length
        try:
            draft.restudy()
        except RecipeError as error:
            raise RecipeError(
                f"The family {draft.anatomy.family} takes no positions scaled by "
                f"{self.options.scaling!r}.",
                where="surgery.context.scaling",
                fix="Use `scaling: ntk`, which any rotary positions take.",
            ) from error
        how = (
            "" if self.options.scaling == "none" else f", positions scaled ({self.options.scaling})"
        )
        return f"Context of {self.options.length:,} tokens, before {old:,}{how}."

    def _scale(self, rope: dict[str, Any], factor: float, old: int, rotated: int) -> None:
        scaling = self.options.scaling
        if scaling == "ntk":
            if rotated <= 2:
                raise RecipeError(
                    "Its heads turn by one angle alone, which a larger base does not change.",
                    where="surgery.context.scaling",
                    fix="Use `scaling: linear`.",
                )
            rope["rope_theta"] = float(rope["rope_theta"]) * factor ** (rotated / (rotated - 2))
        elif scaling != "none":
            rope |= {"rope_type": scaling, "factor": factor}
            if scaling == "yarn":
                rope["original_max_position_embeddings"] = old


def _stretched(config: Any, ropes: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parameters to scale: of layers that see the whole context, where layers differ."""
    nested = getattr(config, "rope_parameters", {}) or {}
    if "full_attention" in nested:
        return [nested["full_attention"]]
    return [rope for rope in ropes if isinstance(rope, dict)]


def _rotated(config: Any, rope: Mapping[str, Any]) -> int:
    """How many elements of a head are rotated."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(size * rope.get("partial_rotary_factor", 1.0))
