"""Adds tokens to the vocabulary, so that a word of one's own is one token.

    pieces   the mean of the tokens that the word was written with before: near what the model
             already thinks of it
    mean     the mean of all tokens: nothing in particular (Hewitt, 2021)

Rows that no token uses are taken first. Under an adapter the rows stay as they begin, unless `lora`
is told to let the new ones learn (`new_tokens`); `full` and `layers` with `output` let all learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import RecipeError
from tunesmith.models.surgery.base import Operation
from tunesmith.registry import OPERATIONS

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.models.draft import Draft


@OPERATIONS.register("vocabulary")
class Vocabulary(Operation):
    """Add tokens."""

    class Options(BaseModel):
        """Which tokens, and how they begin."""

        model_config = ConfigDict(extra="forbid")

        add: list[Annotated[str, Field(min_length=1)]] = Field(
            default=[], description="tokens to add, as they stand in the text"
        )
        special: list[Annotated[str, Field(min_length=1)]] = Field(
            default=[],
            description="tokens to add that mark something and are no text of their own",
        )
        pad: str | None = Field(
            default=None, min_length=1, description="a padding token of its own to add"
        )
        initial: Literal["pieces", "mean"] = Field(
            default="pieces",
            description="what a new token begins as: the mean of the tokens that wrote it before, "
            "or of all tokens (special ones always do)",
        )
        multiple_of: int = Field(
            default=1, ge=1, le=1024, description="round the rows of the embedding up to this"
        )

    def alter(self, draft: Draft) -> str:
        """Add the tokens, and rows for them.

        Raises:
            RecipeError: there is no tokenizer, nothing to add, or a token is there already.
        """
        tokenizer = draft.tokenizer
        if tokenizer is None:
            raise RecipeError(
                "This model comes without a tokenizer, so no token can be added.", where="surgery"
            )
        special = [*self.options.special, *([self.options.pad] if self.options.pad else [])]
        self._check(tokenizer, special)
        if self.options.pad is not None:
            _check_padding(draft)
        before = len(tokenizer)
        pieces = {word: tokenizer(word, add_special_tokens=False)["input_ids"]
                  for word in self.options.add}  # fmt: skip
        for words, is_special in ((self.options.add, False), (special, True)):
            tokenizer.add_tokens(words, special_tokens=is_special)
        self._grow(draft, before, pieces)
        if self.options.pad is not None:
            tokenizer.pad_token = self.options.pad
            draft.set_option("pad_token_id", tokenizer.pad_token_id)
        draft.restudy()
        added = len(tokenizer) - before
        rows = draft.anatomy.vocab_size
        words = f"{added} token" + "s" * (added != 1)
        return f"Added {words}: {len(tokenizer):,} in {rows:,} rows of the embedding."

    def _check(self, tokenizer: Any, special: list[str]) -> None:
        words = [*self.options.add, *special]
        if not words:
            raise RecipeError(
                "There is no token to add.",
                where="surgery.vocabulary",
                fix="Name some under `add`, `special` or `pad`.",
            )
        known = tokenizer.get_vocab()
        there = next((word for word in words if word in known), None)
        twice = next((word for word in words if words.count(word) > 1), None)
        if there is not None or twice is not None:
            raise RecipeError(
                f"The token {there or twice!r} "
                + ("is in the vocabulary already." if there else "is named twice."),
                where="surgery.vocabulary",
                fix="Leave it out.",
            )

    def _grow(self, draft: Draft, before: int, pieces: dict[str, list[int]]) -> None:
        """Give every table over the vocabulary its new rows."""
        rows, step = draft.anatomy.vocab_size, self.options.multiple_of
        wanted = max(rows, len(draft.tokenizer))
        wanted = -(-wanted // step) * step
        draft.set_option("vocab_size", wanted)
        ids = {draft.tokenizer.convert_tokens_to_ids(word): ids for word, ids in pieces.items()}
        shapes = {name: tensor.shape for name, tensor in draft.skeleton().state_dict().items()}
        same = [name for name in _tables(draft) if name in shapes]
        for name in same:
            table = draft.weights[name]
            draft.weights[name] = self._with_rows(
                table, shapes[name][0], before, len(draft.tokenizer), ids
            )

    def _with_rows(
        self, table: Tensor, rows: int, before: int, after: int, pieces: dict[int, list[int]]
    ) -> Tensor:
        grown = table.new_zeros((rows, *table.shape[1:]))
        grown[: len(table)] = table
        mean = table[: min(before, len(table))].float().mean(dim=0).to(table.dtype)
        grown[len(table) :] = mean
        for row in range(before, after):
            written = pieces.get(row, [])
            if self.options.initial == "pieces" and written:
                grown[row] = table[written].float().mean(dim=0).to(table.dtype)
            else:
                grown[row] = mean
        return grown


def _check_padding(draft: Draft) -> None:
    """A model that counts its positions from the padding id cannot be given another.

    Raises:
        RecipeError: this is such a model (RoBERTa and its kin).
    """
    from tunesmith.models.anatomy.positions import learned_table

    table = learned_table(draft.skeleton())
    if table is not None and table.padding_idx is not None:
        raise RecipeError(
            f"The family {draft.anatomy.family} counts its positions from the id of its padding "
            "token, so that token cannot be another one.",
            where="surgery.vocabulary.pad",
            fix="Leave `pad` out.",
        )


def _tables(draft: Draft) -> list[str]:
    """Names of the tensors with a row for each token: embedding, output, and its biases."""
    anatomy = draft.anatomy
    old = anatomy.vocab_size
    holders = {anatomy.embeddings, anatomy.output or anatomy.embeddings}
    # The bias of a layer that fills in (BERT) stands beside that layer, too.
    beside = {name.rpartition(".")[0] for name in holders if anatomy.output == name}
    return [
        name
        for name, tensor in draft.weights.items()
        if tensor.ndim and tensor.shape[0] == old
        and (name.rpartition(".")[0] in holders
             or (name.endswith("bias") and name.rpartition(".")[0] in beside))
    ]  # fmt: skip
