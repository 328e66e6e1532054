"""How much of a text fits a model beside the tokenizer's own tokens, and where its tokens stand.

    model, max_length ──Margins.of──> what stands before and behind every text, room between them

It knows no task: what a text is made of, and what is learnt of it, is not seen here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.data.frame import around
from tunesmith.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@dataclass(frozen=True)
class Margins:
    """What a tokenizer puts before and behind every text, and how many tokens of one fit."""

    before: tuple[int, ...]
    behind: tuple[int, ...]
    room: int

    @classmethod
    def of(cls, model: Model, max_length: int | None) -> Margins:
        """Find them out for texts of at most `max_length` tokens; None: of the model's context.

        Raises:
            RecipeError: there is no room for text.
        """
        before, behind = around(model.tokenizer)
        length = most_tokens(model, max_length)
        own = len(before) + len(behind)
        if length <= own:
            raise RecipeError(
                f"{length} tokens leave no room for text beside the tokenizer's own {own}.",
                where="task.max_length",
                fix="Raise it.",
            )
        return cls(tuple(before), tuple(behind), length - own)

    def around(self, ids: Iterable[int]) -> tuple[int, ...]:
        """Return the tokens of a text as the model reads them."""
        return (*self.before, *ids, *self.behind)

    def marked(self, said: Iterable[int], nothing: int) -> tuple[int, ...]:
        """Return what is said of each of these tokens, of those around the text `nothing`."""
        before, behind = (nothing,) * len(self.before), (nothing,) * len(self.behind)
        return (*before, *said, *behind)


def most_tokens(model: Model, max_length: int | None) -> int:
    """Return how many tokens a model reads at once: its context, or what an option allows."""
    context: int = model.anatomy.context_length
    return min(max_length or context, context)


def check_places(model: Model) -> None:
    """Check that the tokenizer says where in a text its tokens stand.

    Raises:
        ModelError: it does not.
    """
    if not model.tokenizer.is_fast:
        raise ModelError(
            "The tokenizer cannot say where in a text its tokens stand.",
            where=model.source.name,
            fix="Choose a model that has a tokenizer.json.",
        )
