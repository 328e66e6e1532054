"""Language modelling: learn the next token of plain text, without labels.

    Document ──pieces──> ids + end token, in blocks ──TokenLogProbs──> log-likelihood, bits a byte

Every token of a document is learnt, its end token included, except a first one with nothing before
it. A document longer than `max_length` becomes several examples: each following one begins with the
last tokens of the one before (`overlap`), which are read but not learnt again, so each token is
learnt exactly once and no text is lost. Scores are per *document*: the pieces of one are summed, so
that a bootstrap resamples documents. Look-alikes of special tokens in the text are plain text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.data.frame import around, text_ids
from tunesmith.data.records import Document
from tunesmith.errors import DataError, ModelError, RecipeError, UnlearnableError
from tunesmith.registry import TASKS
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Prompt, Task
from tunesmith.tasks.parts.answers import answers_to, check_room
from tunesmith.tasks.parts.fitting import most_tokens
from tunesmith.tasks.parts.pieces import summed
from tunesmith.tasks.parts.tokens import token_metrics, token_scores

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model


@TASKS.register("language_modeling")
class LanguageModeling(Task):
    """The next token of plain text, without labels."""

    Record = Document
    head = "causal_lm"
    kinds = frozenset({"decoder"})
    objective = "token_likelihood"
    primary = "log_likelihood"

    class Options(BaseModel):
        """How documents are cut, and how long a continuation may be."""

        model_config = ConfigDict(extra="forbid")

        max_length: int | None = Field(
            default=None, ge=2, description="most tokens of a piece; by default the model's context"
        )
        overlap: int = Field(
            default=1,
            ge=1,
            description="tokens of the piece before that a following piece repeats; they are read,"
            " not learnt again",
        )
        max_new_tokens: int = Field(
            default=128, ge=1, description="most tokens of a continuation that is predicted"
        )

    def bind(self, model: Model) -> None:
        """Take the tokenizer, its start and end tokens, and the context length.

        Raises:
            ModelError: the tokenizer has no end-of-text token.
            RecipeError: `overlap` leaves no room in a piece.
        """
        self._tokenizer = model.tokenizer
        if model.tokenizer.eos_token_id is None:
            raise ModelError(
                "The tokenizer has no end-of-text token, so no document could end.",
                where=model.source.name,
                fix="Set `eos_token` in its tokenizer_config.json.",
            )
        self._end = int(model.tokenizer.eos_token_id)
        self._prefix = tuple(around(model.tokenizer)[0])
        self._context: int = model.anatomy.context_length
        self._max_length = most_tokens(model, self.options.max_length)
        if len(self._prefix) + self.options.overlap >= self._max_length:
            raise RecipeError(
                f"Pieces of {self._max_length} tokens of which {self.options.overlap} are repeated"
                " hold nothing new.",
                where="task.overlap",
                fix="Lower it, or raise `task.max_length`.",
            )

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The end-of-text token, which ends every document."""
        return (self._end,)

    def encode(self, record: Document) -> Encoded:
        """Encode a whole document and its end token, however long.

        Raises:
            UnlearnableError: the text has no tokens.
        """
        from tunesmith.data.batch import Encoded, EncodedStream

        ids = (*self._prefix, *text_ids(self._tokenizer, record.text), self._end)
        if len(ids) == len(self._prefix) + 1:
            raise UnlearnableError(
                "The text has no tokens.", fix="Remove the record, or give it a text."
            )
        return Encoded({"text": EncodedStream(ids, (1.0,) * len(ids))})

    def pieces(self, record: Document) -> list[Encoded]:
        """Encode a document as pieces of at most `max_length` tokens."""
        from tunesmith.data.batch import Encoded, EncodedStream

        whole = self.encode(record)
        if whole.length <= self._max_length:
            return [whole]
        ids = whole.streams["text"].ids[len(self._prefix) :]
        room = self._max_length - len(self._prefix)
        found = []
        for start in range(0, len(ids) - self.options.overlap, room - self.options.overlap):
            new = ids[start : start + room]
            read = len(self._prefix) + (self.options.overlap if start else 0)
            piece = (*self._prefix, *new)
            weights = (0.0,) * read + (1.0,) * (len(piece) - read)
            found.append(Encoded({"text": EncodedStream(piece, weights)}, continues=start > 0))
        return found

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Log-likelihood a token, perplexity, bits a byte."""
        bits = Metric(
            "bits_per_byte",
            ("log_likelihood", "bytes"),
            lambda sums: -sums["log_likelihood"] / sums["bytes"] / math.log(2),
            "length of the text compressed by the model; comparable between tokenizers",
            higher_is_better=False,
            unit="bits per byte",
        )
        return {metric.name: metric for metric in (*token_metrics(), bits)}

    def measure(
        self,
        engine: Engine,
        records: Sequence[Document],
        examples: Sequence[Encoded],
        *,
        generate: int,
        console: Console,
        tokens_per_batch: int = 4096,
    ) -> list[ExampleScore]:
        """Score every document; `generate` has no meaning here, as there is no right answer."""
        scores = token_scores(engine, examples, tokens_per_batch=tokens_per_batch, console=console)
        firsts = [example for example in examples if not example.continues]
        rows = summed(examples, scores)
        return [
            ExampleScore(index, {"bytes": self._bytes(record.text, first), **row})
            for index, (record, first, row) in enumerate(zip(records, firsts, rows, strict=True))
        ]

    def _bytes(self, text: str, first: Encoded) -> float:
        """UTF-8 bytes of the text that is learnt: all but a first token with nothing before it."""
        learnt = len(text.encode())
        if not self._prefix:
            learnt -= len(self._tokenizer.decode([first.streams["text"].ids[0]]).encode())
        return float(max(learnt, 0))

    def prompt(self, text: str) -> Prompt:
        """Return what the continuation of a text starts from.

        Raises:
            DataError: it is not a text, it has no tokens, or it does not fit.
        """
        if not isinstance(text, str):
            raise DataError(f"It is a {type(text).__name__}, not a text.")
        ids = [*self._prefix, *text_ids(self._tokenizer, text)]
        if not ids:
            raise DataError("The text has no tokens.", fix="Give the text to be continued.")
        prompt = Prompt(ids, (self._end,), self.options.max_new_tokens)
        check_room(prompt, self._context)
        return prompt

    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Continue each text, greedily, to its end or `max_new_tokens`.

        Raises:
            DataError: an input is not a text, has no tokens, or does not fit.
        """
        return answers_to(engine, self.prompt, inputs)

    def present(self, record: Document) -> tuple[str, str]:
        """Return the text; there is no right answer beside it."""
        return record.text, ""
