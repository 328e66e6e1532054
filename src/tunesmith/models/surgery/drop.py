"""Leaves layers out: a smaller, faster model that has to be trained to make up for it.

The layers above close up. Middle and upper layers are the least missed (Gromov et al., 2024,
arXiv:2403.17887); the lowest and the last ones should stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import RecipeError
from tunesmith.models.surgery.base import Operation, layer_numbers
from tunesmith.registry import OPERATIONS

if TYPE_CHECKING:
    from tunesmith.models.draft import Draft


@OPERATIONS.register("drop")
class Drop(Operation):
    """Leave layers out."""

    class Options(BaseModel):
        """Which layers."""

        model_config = ConfigDict(extra="forbid")

        layers: list[int] = Field(
            min_length=1,
            description="layers to leave out, numbered from 0 at the bottom, or from -1 at the top",
        )

    def alter(self, draft: Draft) -> str:
        """Leave the layers out.

        Raises:
            RecipeError: there is no such layer, or none would be left.
        """
        from tunesmith.models.draft import reorder_layers

        count = len(draft.anatomy.layers)
        dropped = layer_numbers(self.options.layers, count, "surgery.drop.layers")
        order = [number for number in range(count) if number not in dropped]
        if not order:
            raise RecipeError(
                f"All {count} layers would be left out.",
                where="surgery.drop.layers",
                fix="Keep one at least.",
            )
        reorder_layers(draft, order)
        return f"Left out {len(dropped)} of {count} layers ({', '.join(map(str, dropped))})."
