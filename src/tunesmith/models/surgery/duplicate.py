"""Doubles layers: a deeper model that begins from what it knows.

    layers, every   a copy right above each chosen layer
    overlap         the lower and the upper layers, overlapping (depth up-scaling: SOLAR,
                    Kim et al., 2023, arXiv:2312.15166): n layers become 2 n - 2 overlap
    zero            a copy adds nothing at first, as what it writes is zero: the model answers
                    exactly as before, and the copies learn what is new (LLaMA Pro, Wu et al.,
                    2024, arXiv:2401.02415)

Zeroed copies need a model that adds what a layer writes to what goes past it; where a norm follows
the sum (BERT), a copy that adds nothing still changes the answer, and that is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunesmith.errors import RecipeError
from tunesmith.models.surgery.base import Operation, layer_numbers
from tunesmith.registry import OPERATIONS

if TYPE_CHECKING:
    from tunesmith.models.draft import Draft


@OPERATIONS.register("duplicate")
class Duplicate(Operation):
    """Double layers."""

    class Options(BaseModel):
        """Which layers, and how the copies begin."""

        model_config = ConfigDict(extra="forbid")

        layers: list[int] | None = Field(
            default=None,
            min_length=1,
            description="layers to double, numbered from 0 at the bottom, or from -1 at the top",
        )
        every: int | None = Field(
            default=None, ge=1, description="double the last of every so many layers"
        )
        overlap: int | None = Field(
            default=None,
            ge=0,
            description="stack the model on itself, without this many layers at the top of the "
            "lower and at the bottom of the upper copy",
        )
        zero: bool = Field(
            default=False,
            description="let copies add nothing at first, so that the model answers as before",
        )

        @model_validator(mode="after")
        def _one_choice(self) -> Duplicate.Options:
            given = [n for n in ("layers", "every", "overlap") if getattr(self, n) is not None]
            if len(given) != 1:
                raise ValueError("Give one of `layers`, `every` and `overlap`")
            if self.overlap is not None and self.zero:
                raise ValueError("`zero` goes with `layers` or `every`: an overlap has no copies")
            return self

    @property
    def keeps_answers(self) -> bool:
        """A zeroed copy adds nothing."""
        return bool(self.options.zero)

    def alter(self, draft: Draft) -> str:
        """Double the layers.

        Raises:
            RecipeError: there is no such layer, or a copy cannot be made to add nothing.
        """
        from tunesmith.models.draft import reorder_layers

        count = len(draft.anatomy.layers)
        if self.options.overlap is not None:
            order = self._stacked(count)
            reorder_layers(draft, order)
            return f"Stacked the model on itself: {len(order)} layers of {count}."
        doubled = self._doubled(count)
        order, copies = [], []
        for number in range(count):
            order.append(number)
            if number in doubled:
                copies.append(len(order))
                order.append(number)
        reorder_layers(draft, order)
        if self.options.zero:
            for place in copies:
                _silence(draft, place)
        how = ", the copies adding nothing yet" if self.options.zero else ""
        places = ", ".join(map(str, copies))
        return f"Doubled {len(copies)} of {count} layers{how}: the copies are layers {places}."

    def _doubled(self, count: int) -> list[int]:
        if self.options.layers is not None:
            return layer_numbers(self.options.layers, count, "surgery.duplicate.layers")
        every = self.options.every
        if every > count:
            raise RecipeError(
                f"There is no group of {every} layers: the model has {count}.",
                where="surgery.duplicate.every",
                fix=f"Give 1 to {count}.",
            )
        return list(range(every - 1, count, every))

    def _stacked(self, count: int) -> list[int]:
        overlap = self.options.overlap
        if overlap >= count:
            raise RecipeError(
                f"An overlap of {overlap} leaves nothing of {count} layers.",
                where="surgery.duplicate.overlap",
                fix=f"Give 0 to {count - 1}.",
            )
        return [*range(count - overlap), *range(overlap, count)]


def _silence(draft: Draft, place: int) -> None:
    """Set to zero what the layer at `place` writes: the last maps of attention and feed-forward."""
    from tunesmith.models.anatomy.blocks import writing_maps

    for name in writing_maps(draft.skeleton(), draft.anatomy.layers[place]):
        for part in ("weight", "bias"):
            if f"{name}.{part}" in draft.weights:
                tensor = draft.weights[f"{name}.{part}"]
                draft.weights[f"{name}.{part}"] = tensor.new_zeros(tensor.shape)
