"""The tokens that surgery added to a model, and the tables whose rows for them may learn."""

from __future__ import annotations

from tunesmith.errors import RecipeError
from tunesmith.models.adapters import within_adapted
from tunesmith.models.altered import surgery_of
from tunesmith.models.model import Model


def added_tokens(model: Model) -> dict[str, list[int]]:
    """Return the tokens that surgery added, by the tables whose rows for them are to learn.

    Raises:
        RecipeError: none were added, or PEFT cannot let rows of this output layer learn.
    """
    done = surgery_of(model.source.path).get("operations", [])
    words = [
        word
        for operation in done if operation["name"] == "vocabulary"
        for word in (*operation["add"], *operation["special"], operation["pad"]) if word
    ]  # fmt: skip
    if not words:
        raise RecipeError(
            "No token was added to this model, so no row of a new one can learn.",
            where="technique.new_tokens",
            fix="Add some by the operation `vocabulary` under surgery, or leave it out.",
        )
    tables = [model.anatomy.embeddings]
    if model.anatomy.output is not None and not model.anatomy.tied:
        tables.append(model.anatomy.output)
        if getattr(model.module.get_submodule(model.anatomy.output), "bias", None) is not None:
            raise RecipeError(
                f"PEFT leaves out the bias of the output layer of this {model.anatomy.family}"
                " model where rows of it learn.",
                where="technique.new_tokens",
                fix="Leave it out, or choose the technique `full`.",
            )
    ids = sorted(model.tokenizer.convert_tokens_to_ids(words))
    return dict.fromkeys([within_adapted(model, table) for table in tables], ids)
