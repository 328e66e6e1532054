"""Keeps named parameters from learning, after the technique has said what learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import RecipeError
from tunesmith.models.surgery.base import Operation
from tunesmith.registry import OPERATIONS

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@OPERATIONS.register("freeze")
class Freeze(Operation):
    """Keep parameters from learning."""

    works_on: ClassVar[Literal["files", "loaded", "marked"]] = "marked"

    class Options(BaseModel):
        """Which parameters."""

        model_config = ConfigDict(extra="forbid")

        names: list[Annotated[str, Field(min_length=1)]] = Field(
            min_length=1,
            description="names or patterns of modules or parameters, whole or from any dot on, "
            "such as `embed_tokens`, `layers.0` or `*norm*`",
        )

    def settle(self, model: Model) -> str:
        """Freeze them.

        Raises:
            RecipeError: a pattern names nothing, or nothing that learns, or nothing would be left.
        """
        from tunesmith.models.learning import matching

        found = matching(model.module, self.options.names, "surgery.freeze.names")
        learning = {name: p for name, p in found.items() if p.requires_grad}
        if not learning:
            raise RecipeError(
                "Nothing of what is to be frozen would learn anyway.",
                where="surgery.freeze.names",
                fix="Leave the operation out.",
            )
        for parameter in learning.values():
            parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.module.parameters()):
            raise RecipeError(
                "Nothing would be left that learns.",
                where="surgery.freeze.names",
                fix="Freeze less.",
            )
        count = sum(parameter.numel() for parameter in learning.values())
        return f"Froze {count:,} parameters that would have learnt."
