"""Keeps named parameters from learning, after the technique has said what learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.errors import RecipeError
from tunesmith.models.surgery.base import OfParameters
from tunesmith.registry import OPERATIONS

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@OPERATIONS.register("freeze")
class Freeze(OfParameters):
    """Keep parameters from learning."""

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
