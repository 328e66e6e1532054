"""Reranking: a query and documents in, the documents in the order of their relevance out.

    RankedTexts ──pieces──> query + each document ──Pooled──> one number each ──> nDCG, MRR

The model reads a query together with one document and says how relevant that is: a cross-encoder.
Each document of a query is an example; what is learnt is its relevance, as a share of the highest
of the training records. Figures are of whole queries, so that a bootstrap resamples these; a query
without relevant documents (or with no other) has no part in them. The saved model loads with
transformers, and with sentence-transformers as a `CrossEncoder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from tunesmith.data.records import RankedTexts
from tunesmith.errors import DataError
from tunesmith.models.reading import Reader, ReadingOptions
from tunesmith.registry import TASKS
from tunesmith.scores.ranking import average_precision, graded_ndcg, in_order
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Ranked, Task

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model

Floats = NDArray[np.float64]
_SD = 0.4


@TASKS.register("reranking")
class Reranking(Task):
    """A query and documents in, the documents in the order of their relevance out."""

    Record = RankedTexts
    head = "multi_label"
    kinds = frozenset({"decoder", "encoder"})
    objective = "binary_classes"
    primary = "ndcg_at_10"

    class Options(ReadingOptions):
        """How a query is read with a document."""

    def __init__(self, options: BaseModel | None = None) -> None:
        super().__init__(options)
        self._highest = 1.0  # relevance of the training records

    def study(self, records: Sequence[RankedTexts]) -> None:
        """Find out how relevant documents can be.

        Raises:
            DataError: there are none, or all documents are equally relevant.
        """
        if not records:
            raise DataError("There are no training records.", where="data.train")
        found = {value for record in records for value in record.relevance}
        if len(found) < 2:
            raise DataError(
                f"All documents of the training records have the relevance {min(found):g}: there is"
                " nothing to tell apart.",
                where="data.train",
                fix="Give documents that are relevant and documents that are not (0).",
            )
        self._highest = max(found)

    def check_held_out(self, part: str, records: Sequence[RankedTexts]) -> None:
        """Refuse a part in which hardly a query has an order that could be right or wrong.

        Raises:
            DataError: there are fewer than two such queries (one in validation).
        """
        telling = sum(len(set(record.relevance)) > 1 for record in records)
        if telling < (2 if part == "test" else 1):
            raise DataError(
                f"Only {telling} of {len(records)} queries of the {part} set have documents that"
                " differ in relevance: the order of the others says nothing.",
                where=f"data.{part}",
                fix="Give queries with documents that are relevant and documents that are not (0).",
            )

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one number."""
        return ("relevance",)

    def bind(self, model: Model) -> None:
        """Take the tokenizer, and how it lays two texts out."""
        self._reader = Reader(model, self.options)

    def encode(self, record: RankedTexts) -> Encoded:
        """Encode a query with its first document.

        Raises:
            UnlearnableError: one of them has no tokens.
        """
        return self.pieces(record)[0]

    def pieces(self, record: RankedTexts) -> list[Encoded]:
        """Encode a query with each of its documents."""
        from tunesmith.data.batch import Encoded

        found = []
        for place, (document, relevance) in enumerate(
            zip(record.documents, record.relevance, strict=True)
        ):
            stream, cut = self._reader.lay(record.text, document)
            label = (min(relevance / self._highest, 1.0),)
            found.append(Encoded({"text": stream}, label, cut, continues=place > 0))
        return found

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """How far in front relevant documents stand, and how sure the model is of each."""
        said = {
            "ndcg_at_10": "how far in front the relevant documents stand among the first ten, the"
            " more relevant the better (nDCG)",
            "reciprocal_rank": "one over the place of the foremost relevant document, on average"
            " (MRR)",
            "average_precision": "share of relevant documents up to each relevant one, on average"
            " (MAP)",
        }
        assumption = f"records' changes differ by {_SD:g} (standard deviation)"
        found = {
            name: Metric.mean(name, text, assumed_sd=_SD, assumption=assumption)
            for name, text in said.items()
        }
        likelihood = Metric.mean(
            "log_likelihood",
            "logarithm of the probability that the model gives to the relevance of a document",
            over="documents",
            unit="nats per document",
            assumed_sd=0.3,
            assumption="records' changes differ by 0.3 nats per document (standard deviation)",
        )
        return found | {likelihood.name: likelihood}

    def measure(
        self,
        engine: Engine,
        records: Sequence[RankedTexts],
        examples: Sequence[Encoded],
        *,
        generate: int,
        console: Console,
        tokens_per_batch: int = 4096,
    ) -> list[ExampleScore]:
        """Score every query; `generate` has no meaning here, as nothing is generated."""
        rows = self._outputs(engine, examples, tokens_per_batch, console)
        return [
            self._score(index, record, outputs_N)
            for index, (record, outputs_N) in enumerate(zip(records, rows, strict=True))
        ]

    def _outputs(
        self, engine: Engine, examples: Sequence[Encoded], tokens_per_batch: int, console: Console
    ) -> list[Floats]:
        """Return for each query what the head says of each of its documents."""
        from tunesmith.engine.outputs import document_outputs

        said_N1 = document_outputs(
            engine, examples, tokens_per_batch=tokens_per_batch, console=console
        )
        firsts = [place for place, example in enumerate(examples) if not example.continues]
        return np.split(said_N1[:, 0], firsts[1:])

    def _score(self, index: int, record: RankedTexts, outputs_N: Floats) -> ExampleScore:
        relevance_N = np.array(record.relevance)
        truth_N = np.minimum(relevance_N / self._highest, 1.0)
        likelihood_N = truth_N * outputs_N - np.logaddexp(0, outputs_N)
        statistics = {
            "documents": float(len(outputs_N)),
            "log_likelihood": float(likelihood_N.sum()),
        }
        if len(set(record.relevance)) > 1:
            ordered_N = in_order(outputs_N, relevance_N)
            statistics |= {
                "count": 1.0,
                "ndcg_at_10": graded_ndcg(ordered_N, 10),
                "reciprocal_rank": 1 / (1 + int((ordered_N > 0).argmax())),
                "average_precision": average_precision(ordered_N),
            }
        return ExampleScore(index, statistics, record.documents[int(outputs_N.argmax())])

    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Return the documents of each query, the most relevant first, with their probabilities.

        An input is an object with `query` and `documents`.

        Raises:
            DataError: an input is not, or has no tokens.
        """
        from scipy.special import expit

        from tunesmith.console import Console

        records = [_asked(given, number) for number, given in enumerate(inputs, start=1)]
        origins = [f"input {number}" for number in range(1, len(inputs) + 1)]
        examples = self.encode_all(records, origins)
        rows = self._outputs(engine, examples, 4096, Console(quiet=True))
        return [
            _prediction(record, expit(outputs_N))
            for record, outputs_N in zip(records, rows, strict=True)
        ]

    def present(self, record: RankedTexts) -> tuple[str, str]:
        """Return the query, and its relevant documents."""
        pairs = zip(record.documents, record.relevance, strict=True)
        return record.text, "\n\n".join(text for text, relevance in pairs if relevance > 0)

    def state(self) -> dict[str, Any]:
        """Return the highest relevance that was learnt."""
        return {"highest": self._highest}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back the highest relevance that was learnt."""
        self._highest = float(state["highest"])


def _prediction(record: RankedTexts, shares_N: Floats) -> Prediction:
    order = np.argsort(-shares_N, kind="stable").tolist()
    ranking = tuple(
        Ranked(place, record.documents[place], float(shares_N[place])) for place in order
    )
    return Prediction(ranking[0].text, ranking=ranking)


def _asked(given: Any, number: int) -> RankedTexts:
    query: Any = given.get("query") if isinstance(given, Mapping) else None
    documents: Any = given.get("documents") if isinstance(given, Mapping) else None
    texts = [query, *documents] if isinstance(documents, list) and documents else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(
            "It is no query with documents.",
            where=f"input {number}",
            fix='Give {"query": …, "documents": [ … ]}.',
        )
    return RankedTexts(text=query, documents=documents, relevance=[0.0] * len(documents))
