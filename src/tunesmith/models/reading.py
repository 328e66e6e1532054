"""How a model reads a text whole: with an instruction before it, and beside another text.

    text [, other text] ──Reader.lay──> ids, token types, what was cut to fit

A text alone becomes exactly what the tokenizer makes of it by default (`[CLS] … [SEP]` for a BERT,
a leading start token for a Llama, nothing for a GPT-2). Of two texts an encoder gets the pair that
its tokenizer lays out, with the type of each token where the model tells types apart; a decoder
gets one text, with `separator` between the two. Look-alikes of special tokens are plain text. What
is too long is cut as transformers' `longest_first` does: the longer of two texts, then both. It
knows no task.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.data.frame import Frame, around, text_ids
from tunesmith.errors import DataError, RecipeError, UnlearnableError

if TYPE_CHECKING:
    from tunesmith.data.batch import Cut, EncodedStream
    from tunesmith.models.model import Model


class ReadingOptions(BaseModel):
    """How a text is read."""

    model_config = ConfigDict(extra="forbid")

    max_length: int | None = Field(
        default=None,
        ge=2,
        description="most tokens of a text, or of two together; by default the model's context",
    )
    truncation: Literal["end", "start"] = Field(
        default="end", description="which side of a text that is too long is cut"
    )
    instruction: str | None = Field(
        default=None,
        min_length=1,
        description="what is put before every text, in training and in use; it is never cut",
    )
    separator: str = Field(
        default="\n",
        min_length=1,
        description="what stands behind the instruction, and between two texts where the tokenizer "
        "puts nothing of its own (decoders)",
    )


class Reader:
    """Lays texts out for one model.

    Raises:
        RecipeError: the length that the options allow leaves no room for text.
    """

    def __init__(self, model: Model, options: ReadingOptions) -> None:
        self._tokenizer = model.tokenizer
        self._options = options
        context = model.anatomy.context_length
        self._max_length: int = min(options.max_length or context, context)
        before, behind = around(model.tokenizer)
        self._single = Frame(before, [], behind, None)
        pair = Frame.of(model.tokenizer)
        self._pair = pair if model.anatomy.kind == "encoder" and pair.between else None
        self._typed = _tells_types_apart(model)
        self._head = "" if options.instruction is None else options.instruction + options.separator
        own = len(before) + len(behind) + len(self._ids(self._head))
        if self._max_length <= own:
            raise RecipeError(
                f"{self._max_length} tokens leave no room for text beside the {own} of the"
                " tokenizer's own and the instruction.",
                where="task.max_length",
                fix="Raise it.",
            )

    def lay(self, text: str, other: str | None = None) -> tuple[EncodedStream, Cut | None]:
        """Lay out a text, or two; return its tokens, and what was cut.

        Raises:
            UnlearnableError: a text has no tokens.
            DataError: what stands around two texts leaves no room for them.
        """
        frame = self._single if other is None or self._pair is None else self._pair
        joined = other is not None and not frame.between
        beside = f"{self._options.separator}{other}" if joined else ""
        one = self._ids(f"{self._head}{text}{beside}")
        two = self._ids(other) if other is not None and not joined else []
        if other is not None or self._head:
            known = [self._ids(part) for part in (text, other) if part is not None]
        else:
            known = [one]
        if not all(known):
            raise UnlearnableError(
                "The text has no tokens.", fix="Remove the record, or give it a text."
            )
        room = self._max_length - len(frame.before) - len(frame.between) - len(frame.behind)
        cut = None
        if len(one) + len(two) > room:
            one, two, cut = self._shortened(known, room, joined)
        return self._framed(frame, one, two), cut

    def _shortened(
        self, texts: list[list[int]], room: int, joined: bool
    ) -> tuple[list[int], list[int], Cut]:
        """Return what the frame holds on both sides of its middle, and what was cut."""
        from tunesmith.data.batch import Cut

        head = self._ids(self._head)
        middle = self._ids(self._options.separator) if joined else []
        kept = _shares([len(text) for text in texts], room - len(head) - len(middle))
        if min(kept) < 1:
            raise DataError(
                f"{self._max_length} tokens leave no room for two texts beside the tokenizer's own"
                " and the instruction.",
                where="task.max_length",
                fix="Raise it.",
            )
        one, *others = (
            text[:count] if self._options.truncation == "end" else text[len(text) - count :]
            for text, count in zip(texts, kept, strict=True)
        )
        two = others[0] if others else []
        cut = Cut(self._options.truncation, sum(map(len, texts)) - sum(kept), 0)
        if joined:
            return [*head, *one, *middle, *two], [], cut
        return [*head, *one], two, cut

    def _framed(self, frame: Frame, one: list[int], two: list[int]) -> EncodedStream:
        from tunesmith.data.batch import EncodedStream

        types = None
        if frame.types is not None and self._typed:
            before, first, between, second, behind = frame.types
            types = (*before, *[first] * len(one), *between, *[second] * len(two), *behind)
        ids = (*frame.before, *one, *frame.between, *two, *frame.behind)
        return EncodedStream(ids, types=types)

    def _ids(self, text: str) -> list[int]:
        return text_ids(self._tokenizer, text)


def _tells_types_apart(model: Model) -> bool:
    """Whether the body has a vector for each of at least two types of token."""
    config: Any = model.module.config
    takes = "token_type_ids" in inspect.signature(model.body.forward).parameters
    return takes and int(getattr(config, "type_vocab_size", 0) or 0) >= 2


def _shares(lengths: list[int], room: int) -> list[int]:
    """Return how many tokens each of one or two texts keeps: the longer is cut first."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    short = min(min(lengths), room // 2)
    kept = [short, min(max(lengths), room - short)]
    return kept if lengths[0] <= lengths[1] else kept[::-1]
