"""Embedding: a text in, a vector out; texts that belong together lie near to each other.

    RelatedTexts ──encode──> query, right text, wrong texts ──Vectors──> cosines ──> nDCG, Spearman

Records are of one kind: pairs of a query and its right text (with or without wrong ones), which are
learnt against all other texts of the step; or pairs with a score, of which the order is learnt. A
vector is made of a text's tokens as the model was made to (`1_Pooling`), else by their mean in
encoders and their last in decoders. Queries of the test rank all its texts; Spearman's correlation
is over the ranks within the whole test set, in resamples too. Texts longer than `max_length` are
cut at the end. The result loads with sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.data.frame import text_ids
from tunesmith.data.records import RelatedTexts
from tunesmith.errors import DataError, UnlearnableError
from tunesmith.registry import TASKS
from tunesmith.scores.ranking import (
    RANK_SUMS,
    correlation,
    ndcg,
    paired_sums,
    places,
    ranks,
    recall,
)
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Task
from tunesmith.tasks.parts.fitting import Margins

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded, EncodedStream
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model

Floats = NDArray[np.float64]
_SD = 0.4


@TASKS.register("embedding")
class Embedding(Task):
    """A text in, a vector out, near to those of texts that belong with it."""

    Record = RelatedTexts
    head = "embedding"
    kinds = frozenset({"decoder", "encoder"})
    objective = "in_batch_negatives"
    primary = "ndcg_at_10"

    class Options(BaseModel):
        """How long a text may be."""

        model_config = ConfigDict(extra="forbid")

        max_length: int | None = Field(
            default=None, ge=2, description="most tokens of a text; by default the model's context"
        )

    _wrong = 0

    def study(self, records: Sequence[RelatedTexts]) -> None:
        """Find out which kind of records these are.

        Raises:
            DataError: kinds are mixed, scores do not differ, or all queries have one right text.
        """
        scores = {record.score for record in records}
        if None in scores and len(scores) > 1:
            raise DataError(
                "Some training records have a score and some have none.",
                where="data.train",
                fix="Give records of one kind.",
            )
        if len(scores) == 1 and None not in scores:
            raise DataError(
                f"All training records have the score {scores.pop():g}: they have no order.",
                where="data.train",
                fix="Give pairs of different scores.",
            )
        if None in scores and len({record.other for record in records}) < 2:
            raise DataError(
                "All training records have the same right text: there is nothing to tell apart.",
                where="data.train",
                fix="Give records with different right texts.",
            )
        counts = {len(record.wrong) for record in records}
        if len(counts) > 1:
            raise DataError(
                f"Training records have {min(counts)} to {max(counts)} negatives; a step compares"
                " as many for each.",
                where="data.train",
                fix="Give every record the same number of negatives.",
            )
        self._take(scored=None not in scores, wrong=counts.pop())

    def _take(self, *, scored: bool, wrong: int) -> None:
        self._wrong = wrong
        self.objective = "score_order" if scored else "in_batch_negatives"
        self.primary = "spearman" if scored else "ndcg_at_10"

    @property
    def _scored(self) -> bool:
        return self.objective == "score_order"

    def bind(self, model: Model) -> None:
        """Take the tokenizer, the tokens that it puts around a text, and the context length."""
        self._tokenizer = model.tokenizer
        self._margins = Margins.of(model, self.options.max_length)

    def encode(self, record: RelatedTexts) -> Encoded:
        """Encode the texts of a record, each a stream.

        Raises:
            DataError: it is of another kind than the training records.
            UnlearnableError: a text has no tokens.
        """
        from tunesmith.data.batch import Cut, Encoded

        if (record.score is not None) != self._scored or len(record.wrong) != self._wrong:
            expected = "a score" if self._scored else f"{self._wrong} negatives and no score"
            raise DataError(
                f"The training records have {expected}; this one has not.",
                fix="Give records of the same kind.",
            )
        texts = {"text": record.text, "right": record.other}
        texts |= {f"wrong_{place}": text for place, text in enumerate(record.wrong, start=1)}
        found = {name: self._stream(text) for name, text in texts.items()}
        lost = sum(cut for _, cut in found.values())
        return Encoded(
            {name: stream for name, (stream, _) in found.items()},
            record.score,
            Cut("end", lost, 0) if lost else None,
        )

    def _stream(self, text: str) -> tuple[EncodedStream, int]:
        """Return the tokens of a text, and how many were cut."""
        from tunesmith.data.batch import EncodedStream

        ids = text_ids(self._tokenizer, text)
        if not ids:
            raise UnlearnableError("A text has no tokens.", fix="Remove the record.")
        kept = ids[: self._margins.room]
        return EncodedStream(self._margins.around(kept)), len(ids) - len(kept)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Of pairs: how far in front right texts stand; of scored pairs: Spearman's correlation."""
        assumption = f"records' changes differ by {_SD:g} (standard deviation)"
        if self._scored:
            found = [
                Metric(
                    "spearman", RANK_SUMS, correlation,
                    "correlation of the ranks of cosines with those of the scores (-1 to 1)",
                )
            ]  # fmt: skip
            return {metric.name: metric for metric in found}
        said = {
            "ndcg_at_10": "how far in front the right texts stand among the first ten (nDCG)",
            "recall_at_1": "share of the right texts that stand first",
            "recall_at_10": "share of the right texts among the first ten",
            "reciprocal_rank": "one over the place of the foremost right text, on average",
        }
        if self._wrong:
            said["triplets"] = "share of the negatives that are farther than the right text"
        return {
            name: Metric.mean(name, text, assumed_sd=_SD, assumption=assumption)
            for name, text in said.items()
        }

    def measure(
        self,
        engine: Engine,
        records: Sequence[RelatedTexts],
        examples: Sequence[Encoded],
        *,
        generate: int,
        console: Console,
        tokens_per_batch: int = 4096,
    ) -> list[ExampleScore]:
        """Score every record; `generate` has no meaning here, as nothing is generated."""
        texts = list(
            dict.fromkeys(
                text for record in records for text in (record.text, record.other, *record.wrong)
            )
        )
        vectors_ND = self._vectors(engine, texts, tokens_per_batch, console)
        vector_of = dict(zip(texts, vectors_ND, strict=True))
        if self._scored:
            return _order(records, vector_of)
        return _retrieval(records, vector_of)

    def _vectors(
        self, engine: Engine, texts: Sequence[str], tokens_per_batch: int, console: Console
    ) -> Floats:
        """Return the vector of each text, of length 1: `[N, D]`."""
        import torch
        from torch.nn.functional import normalize

        from tunesmith.data.batch import Encoded
        from tunesmith.engine.batching import batches
        from tunesmith.objectives.base import Vectors

        examples = [Encoded({"text": self._stream(text)[0]}) for text in texts]
        found: dict[int, torch.Tensor] = {}
        with console.progress("measure", len(examples)) as bar:
            for batch in batches(examples, tokens_per_batch, packed=engine.packed):
                rows_BD = engine.forward(batch, Vectors).vectors_SBD[0].cpu().double()
                found |= dict(zip(batch.indices, normalize(rows_BD, dim=-1), strict=True))
                bar.advance(len(batch))
        vectors: Floats = torch.stack([found[place] for place in range(len(texts))]).numpy()
        return vectors

    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Return the vector of each text, of length 1.

        Raises:
            DataError: an input is not a text, or has no tokens.
        """
        from tunesmith.console import Console

        for number, text in enumerate(inputs, start=1):
            if not isinstance(text, str):
                raise DataError(
                    f"It is a {type(text).__name__}, not a text.", where=f"input {number}"
                )
        vectors_ND = self._vectors(engine, inputs, 4096, Console(quiet=True))
        return [
            Prediction(" ".join(f"{value:.4f}" for value in row), vector=tuple(row.tolist()))
            for row in vectors_ND
        ]

    def present(self, record: RelatedTexts) -> tuple[str, str]:
        """Return the query and its right text, or both texts and their score."""
        if record.score is None:
            return record.text, record.other
        return f"{record.text}\n\n{record.other}", f"{record.score:g}"

    def state(self) -> dict[str, Any]:
        """Return which kind of records was learnt from."""
        return {"scored": self._scored, "wrong": self._wrong}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back which kind of records was learnt from."""
        self._take(scored=bool(state["scored"]), wrong=int(state["wrong"]))


def _order(records: Sequence[RelatedTexts], vector_of: Mapping[str, Floats]) -> list[ExampleScore]:
    cosines = [float(vector_of[record.text] @ vector_of[record.other]) for record in records]
    scores = [float(record.score or 0.0) for record in records]
    rows = paired_sums(ranks(cosines), ranks(scores))
    return [
        ExampleScore(index, row, f"{cosine:.3f}")
        for index, (row, cosine) in enumerate(zip(rows, cosines, strict=True))
    ]


def _retrieval(
    records: Sequence[RelatedTexts], vector_of: Mapping[str, Floats]
) -> list[ExampleScore]:
    """Let each query rank the right and the wrong texts of all records."""
    collection = list(dict.fromkeys(t for r in records for t in (r.other, *r.wrong)))
    place_of = {text: place for place, text in enumerate(collection)}
    texts_ND = np.stack([vector_of[text] for text in collection])
    right: dict[str, set[int]] = {}
    for record in records:
        right.setdefault(record.text, set()).add(place_of[record.other])
    scores = []
    for index, record in enumerate(records):
        similarities_N = texts_ND @ vector_of[record.text]
        found = places(similarities_N, sorted(right[record.text]))
        own = similarities_N[place_of[record.other]]
        statistics = {
            "count": 1.0,
            "ndcg_at_10": ndcg(found, 10),
            "recall_at_1": recall(found, 1),
            "recall_at_10": recall(found, 10),
            "reciprocal_rank": 1 / found[0],
        }
        if record.wrong:
            farther = [own > similarities_N[place_of[text]] for text in record.wrong]
            statistics["triplets"] = sum(farther) / len(farther)
        scores.append(ExampleScore(index, statistics, collection[int(similarities_N.argmax())]))
    return scores
