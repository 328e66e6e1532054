"""Lets named parameters learn that the technique would leave as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.errors import RecipeError
from tunesmith.models.surgery.base import OfParameters
from tunesmith.registry import OPERATIONS

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@OPERATIONS.register("unfreeze")
class Unfreeze(OfParameters):
    """Let more parameters learn."""

    def settle(self, model: Model) -> str:
        """Let them learn, in float32.

        Raises:
            RecipeError: a pattern names nothing, or the result would not be saved.
        """
        from tunesmith.models.heads import FeatureModel
        from tunesmith.models.learning import matching, widen

        if model.peft is not None or isinstance(model.module, FeatureModel):
            raise RecipeError(
                "This technique saves only what it adds itself: other parameters that learnt would "
                "be lost.",
                where="surgery.unfreeze",
                fix="Use the technique layers or full.",
            )
        found = matching(model.module, self.options.names, "surgery.unfreeze.names")
        still = {name: p for name, p in found.items() if not p.requires_grad}
        if not still:
            raise RecipeError(
                "All of what is to learn would learn anyway.",
                where="surgery.unfreeze.names",
                fix="Leave the operation out.",
            )
        for parameter in still.values():
            widen(parameter)
            parameter.requires_grad_(True)
        count = sum(parameter.numel() for parameter in still.values())
        return f"Let {count:,} more parameters learn."
