"""Surgery: the contract of an operation on a model.

    files ──alter──> other files that transformers loads      drop, duplicate, vocabulary, width …
    a loaded model ──settle──> the same, set otherwise        attention, text_head
    a model whose learning parameters are marked ──settle──>  freeze, unfreeze

An operation does one of these (`works_on`). It says in a sentence what it did; the model that it
was made from is never touched. Options are pydantic models, importable without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import RecipeError

if TYPE_CHECKING:
    from tunesmith.models.draft import Draft
    from tunesmith.models.model import Model


class Operation:
    """A change of a model; `name` is set by the registry."""

    name: ClassVar[str]
    works_on: ClassVar[Literal["files", "loaded", "marked"]] = "files"
    """When its turn comes: before loading, before a technique marks what learns, or after."""
    replaces: ClassVar[bool] = False
    """Whether a second one would take the place of the first: it is refused."""

    class Options(BaseModel):
        """No options."""

        model_config = ConfigDict(extra="forbid")

    def __init__(self, options: BaseModel | None = None) -> None:
        self.options: Any = options or self.Options()

    @property
    def keeps_answers(self) -> bool:
        """Whether the altered model must answer as before; it is then tried."""
        return False

    def head(self, needed: str) -> str:
        """Return the head to load the model with, given the one that the task needs.

        Raises:
            RecipeError: that one is none that this operation could change.
        """
        return needed

    def alter(self, draft: Draft) -> str:
        """Change the draft in place; return in a sentence what was changed.

        Raises:
            RecipeError: the model has no such part, or no stock class has the new shape.
        """
        raise NotImplementedError

    def settle(self, model: Model) -> str:
        """Change a loaded model in place; return in a sentence what was changed.

        Raises:
            RecipeError: a pattern names nothing in this model.
        """
        raise NotImplementedError


class OfParameters(Operation):
    """Changes which parameters learn, after the technique has said which do."""

    works_on: ClassVar[Literal["files", "loaded", "marked"]] = "marked"

    class Options(BaseModel):
        """Which parameters."""

        model_config = ConfigDict(extra="forbid")

        names: list[Annotated[str, Field(min_length=1)]] = Field(
            min_length=1,
            description="names or patterns of modules or parameters, whole or from any dot on, "
            "such as `embed_tokens`, `layers.0` or `*norm*`",
        )


def layer_numbers(wanted: list[int], count: int, where: str) -> list[int]:
    """Return layer numbers counted from 0; negative ones count from the top.

    Raises:
        RecipeError: there is no such layer.
    """
    for number in wanted:
        if not -count <= number < count:
            raise RecipeError(
                f"There is no layer {number}: the model has {count}, numbered from 0.",
                where=where,
                fix=f"Give numbers from 0 to {count - 1}, or from -{count} to -1 from the top.",
            )
    return sorted({number % count for number in wanted})
