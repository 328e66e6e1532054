"""Masked language modelling: learn to fill in words of plain text, without labels.

    Document ──pieces──> ids with gaps + what stood there ──TokenLogProbs──> log-likelihood, …

An encoder goes on learning its language so. In every epoch other tokens of a text are hidden, drawn
from the seed, the epoch and the text alone; single ones or, with `masking: whole_word`, all of a
word (as in BERT's later models). Measured are always the same ones, all under the mask
token: before and after, in every run. A document longer than `max_length` becomes several pieces;
scores are per document. Look-alikes of special tokens in the text are plain text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.data.frame import encoded_text, text_ids
from tunesmith.data.records import Document
from tunesmith.errors import DataError, ModelError, RecipeError, UnlearnableError
from tunesmith.registry import TASKS
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Task
from tunesmith.tasks.parts.fitting import Margins
from tunesmith.tasks.parts.pieces import summed
from tunesmith.tasks.parts.tokens import token_scores

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.data.masking import Masking
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model

_MEASURED = (0,)
"""The key under which tokens are hidden for measurement; those of epochs have two numbers."""
_SHOWN = 5


@TASKS.register("masked_language_modeling")
class MaskedLanguageModeling(Task):
    """Hidden words of plain text, from those around them, without labels."""

    Record = Document
    head = "masked_lm"
    kinds = frozenset({"encoder"})
    objective = "masked_likelihood"
    primary = "log_likelihood"
    varies = True

    class Options(BaseModel):
        """How documents are cut, and what is hidden of them."""

        model_config = ConfigDict(extra="forbid")

        max_length: int | None = Field(
            default=None, ge=3, description="most tokens of a piece; by default the model's context"
        )
        masking: Literal["token", "whole_word"] = Field(
            default="token",
            description="what is hidden at once: a token, or all tokens of a word, none of which"
            " is then told by the others; the tokenizer says what a word is",
        )
        share: float = Field(
            default=0.15,
            gt=0,
            lt=1,
            description="share of the tokens (or words) that are hidden, at least one",
        )
        masked: float = Field(
            default=0.8,
            ge=0,
            le=1,
            description="share of the hidden tokens that become the mask token, in training",
        )
        random: float = Field(
            default=0.1,
            ge=0,
            le=1,
            description="share of the hidden tokens that become a random token, in training; the"
            " rest stays as it is",
        )

    def __init__(self, options: BaseModel | None = None) -> None:
        super().__init__(options)
        if self.options.masked + self.options.random > 1:
            raise RecipeError(
                f"{self.options.masked:g} of the hidden tokens masked and {self.options.random:g}"
                " random are more than all.",
                where="task.random",
                fix="Lower one of the two.",
            )

    def bind(self, model: Model) -> None:
        """Take the tokenizer, its mask token and the context length.

        Raises:
            ModelError: the tokenizer has no mask token, or knows no words where they are hidden.
            RecipeError: there is no room for text.
        """
        from tunesmith.data.masking import Masking

        tokenizer = model.tokenizer
        if tokenizer.mask_token_id is None:
            raise ModelError(
                "The tokenizer has no mask token, so nothing could be hidden.",
                where=model.source.name,
                fix="Set `mask_token` in its tokenizer_config.json.",
            )
        self._tokenizer = tokenizer
        if self.options.masking == "whole_word" and len({*self._words("a b")}) < 2:
            raise ModelError(
                "The tokenizer does not tell words apart.",
                where=model.source.name,
                fix="Set task.masking to token.",
            )
        self._margins = Margins.of(model, self.options.max_length)
        special = set(tokenizer.all_special_ids)
        self._masking = Masking(
            share=self.options.share,
            masked=self.options.masked,
            random=self.options.random,
            mask_id=int(tokenizer.mask_token_id),
            others=tuple(sorted(set(tokenizer.get_vocab().values()) - special)),
            before=len(self._margins.before),
            behind=len(self._margins.behind),
        )

    @property
    def _measured(self) -> Masking:
        return replace(self._masking, masked=1.0)

    def encode(self, record: Document) -> Encoded:
        """Encode a whole document, however long, with the gaps that are measured.

        Raises:
            UnlearnableError: the text has no tokens.
        """
        (whole,) = self._pieces(record, room=1 << 62)
        return whole

    def pieces(self, record: Document) -> list[Encoded]:
        """Encode a document as pieces of at most `max_length` tokens."""
        return self._pieces(record, self._margins.room)

    def _pieces(self, record: Document, room: int) -> list[Encoded]:
        from tunesmith.data.batch import NO_WORD, Encoded

        ids = text_ids(self._tokenizer, record.text)
        if not ids:
            raise UnlearnableError(
                "The text has no tokens.", fix="Remove the record, or give it a text."
            )
        whole = self.options.masking == "whole_word"
        told = self._words(record.text) if whole else []
        found = []
        for start in range(0, len(ids), room):
            piece = self._margins.around(ids[start : start + room])
            words = self._margins.marked(told[start : start + room], NO_WORD) if whole else None
            stream = self._measured.hide(piece, _MEASURED, words)
            found.append(Encoded({"text": stream}, continues=start > 0))
        return found

    def _words(self, text: str) -> list[int]:
        """Return the number of each token's word; a token that is none is a word of its own."""
        encoded = encoded_text(self._tokenizer, text)
        if not encoded.is_fast:
            return [0] * len(encoded["input_ids"])
        words = encoded.word_ids()
        return [len(words) + place if word is None else word for place, word in enumerate(words)]

    def seen(self, example: Encoded, seed: int, epoch: int) -> Encoded:
        """Return an example with the gaps that an epoch has."""
        return self._masking.again(example, (seed, epoch))

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Pseudo log-likelihood a hidden token, its perplexity, and how many are found."""
        found = [
            Metric.mean(
                "log_likelihood",
                "how likely hidden tokens of held-out text are to the model, given all tokens"
                " around them (pseudo log-likelihood)",
                over="tokens", unit="nats per hidden token", assumed_sd=0.5,
                assumption="records' changes differ by 0.5 nats per hidden token (standard"
                " deviation)",
            ),
            Metric(
                "perplexity", ("log_likelihood", "tokens"),
                lambda sums: np.exp(-sums["log_likelihood"] / sums["tokens"]),
                "among how many equally likely tokens the model hesitates, on average",
                higher_is_better=False,
            ),
            Metric.mean(
                "accuracy", "share of the hidden tokens that are the model's first guess",
                of="correct", over="tokens", assumed_sd=0.4,
                assumption="records' changes differ by 0.4 (standard deviation)",
            ),
        ]  # fmt: skip
        return {metric.name: metric for metric in found}

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
        """Score every document; `generate` has no meaning here, as nothing is generated."""
        scores = token_scores(engine, examples, tokens_per_batch=tokens_per_batch, console=console)
        return [ExampleScore(index, row) for index, row in enumerate(summed(examples, scores))]

    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Fill in the mask tokens of each text; of a single one, with the likeliest tokens for it.

        Raises:
            DataError: an input is not a text, has no mask token, or does not fit.
        """
        return [
            self._filled(engine, self._asked(text, number))
            for number, text in enumerate(inputs, start=1)
        ]

    def _asked(self, text: Any, number: int) -> list[int]:
        where = f"input {number}"
        if not isinstance(text, str):
            raise DataError(f"It is a {type(text).__name__}, not a text.", where=where)
        ids = list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        mask = self._tokenizer.mask_token
        if self._tokenizer.mask_token_id not in ids:
            raise DataError(
                "There is nothing to fill in.", where=where, fix=f"Put {mask} where a word lacks."
            )
        if len(ids) > self._margins.room:
            raise DataError(
                f"It has {len(ids)} tokens, more than the {self._margins.room} that fit.",
                where=where,
                fix="Shorten it.",
            )
        return ids

    def _filled(self, engine: Engine, ids: list[int]) -> Prediction:
        import torch

        from tunesmith.data.batch import Encoded, EncodedStream, collate
        from tunesmith.engine.precision import computing
        from tunesmith.engine.readout import logits
        from tunesmith.objectives.base import Hidden

        whole = self._margins.around(ids)
        batch = collate([Encoded({"text": EncodedStream(whole)})])
        hidden_TD = engine.forward(batch, Hidden).hidden_TD
        gaps = [i for i, token in enumerate(whole) if token == self._tokenizer.mask_token_id]
        with torch.no_grad(), computing(engine.dtype, engine.device):
            logits_NV = logits(engine.model, hidden_TD[gaps], engine.logit_shape)
        shares_NV = logits_NV.float().softmax(-1)
        best_N = shares_NV.argmax(-1).tolist()
        places = dict(zip(gaps, best_N, strict=True))
        filled = [places.get(i, token) for i, token in enumerate(whole)]
        text = self._tokenizer.decode(filled, skip_special_tokens=True)
        if len(gaps) > 1:
            return Prediction(text)
        top = shares_NV[0].topk(min(_SHOWN, shares_NV.shape[1]))
        shares: dict[str, float] = {}
        for token, share in zip(top.indices.tolist(), top.values.tolist(), strict=True):
            shares.setdefault(self._tokenizer.decode([token]).strip(), share)
        return Prediction(text, shares)

    def present(self, record: Document) -> tuple[str, str]:
        """Return the text; there is no right answer beside it."""
        return record.text, ""
