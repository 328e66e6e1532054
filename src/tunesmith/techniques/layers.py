"""A few layers learn, the rest stays as it was; the result is a whole model.

Upper layers are the most particular to a task; what lies below the lowest layer that learns is
never differentiated, which saves time and memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunesmith.errors import RecipeError
from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import Technique

if TYPE_CHECKING:
    from tunesmith.models.model import Model

DEFAULT_LAST = 2


@TECHNIQUES.register("layers")
class Layers(Technique):
    """Named layers learn; a classification head always does."""

    class Options(BaseModel):
        """Which layers, and what else."""

        model_config = ConfigDict(extra="forbid")

        last: int | None = Field(
            default=None,
            ge=0,
            description=f"how many layers learn, counted from the top ({DEFAULT_LAST} where "
            "`layers` is not given either); 0: the head of a classification alone, and what "
            "`final_norm` says",
        )
        layers: list[Annotated[int, Field(ge=0)]] | None = Field(
            default=None,
            min_length=1,
            description="which layers learn, numbered from 0 at the bottom; in place of `last`",
        )
        final_norm: bool = Field(
            default=True, description="whether the norm behind the last layer learns, if any"
        )
        output: bool = Field(
            default=False,
            description="whether the vocabulary layer learns (and the token embeddings, where the "
            "two share their weights)",
        )

        @model_validator(mode="after")
        def _one_choice(self) -> Layers.Options:
            if self.last is not None and self.layers is not None:
                raise ValueError("Give `last` or `layers`, not both")
            if self.last is None and self.layers is None:
                self.last = DEFAULT_LAST
            return self

    def prepare(self, model: Model) -> None:
        """Mark the layers, the norm behind them, and the task's head.

        Raises:
            RecipeError: the model has no such layer or no vocabulary layer, or nothing would learn.
        """
        from tunesmith.models.learning import freeze, learn

        freeze(model.module)
        anatomy = model.anatomy
        names = [anatomy.layers[number].name for number in self._numbers(len(anatomy.layers))]
        names += anatomy.task_modules
        names += anatomy.final_norms if self.options.final_norm else ()
        if self.options.output:
            if anatomy.output is None:
                raise RecipeError(
                    "This model has no vocabulary layer that could learn.",
                    where="technique.output",
                    fix="Leave `output` out: the head of a classification always learns.",
                )
            names.append(anatomy.output)
        if not names:
            raise RecipeError(
                "Nothing would learn: no layer, and this task has no head of its own.",
                where="technique.last",
                fix="Give 1 or more.",
            )
        for name in names:
            learn(model.module.get_submodule(name))

    def save(self, model: Model, folder: Path) -> None:
        """Write the whole model, as transformers reads it."""
        from tunesmith.models.saving import save_full

        save_full(model, folder)

    def _numbers(self, count: int) -> list[int]:
        if self.options.layers is None:
            wanted = self.options.last
            if wanted > count:
                raise RecipeError(
                    f"The last {wanted} layers are to learn, but the model has {count}.",
                    where="technique.last",
                    fix=f"Give 1 to {count}.",
                )
            return list(range(count - wanted, count))
        beyond = [number for number in self.options.layers if number >= count]
        if beyond:
            raise RecipeError(
                f"There is no layer {beyond[0]}: the model has {count}, numbered from 0.",
                where="technique.layers",
                fix=f"Give numbers from 0 to {count - 1}.",
            )
        return sorted(set(self.options.layers))
