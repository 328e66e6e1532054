"""Tagging: a text in, what is named in it out (persons, places, doses …).

    TaggedText ──pieces──> ids + a class at each word's first token ──PerToken──> F1 of entities

The first token of a word carries its tag, in the scheme that the recipe names; its other tokens are
read and not learnt. A word that shares its first token with the word before (`."` in some
vocabularies) goes with that one. A text longer than `max_length` becomes overlapping windows, and
each word is decided in the one where it has most around it. Entities are read from the likeliest
tag of each word as conlleval and seqeval read them, so that the saved model gives the same when
transformers alone calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.data.alignment import Aligned, align
from tunesmith.data.records import Entity, TaggedText
from tunesmith.data.tagged import of_words
from tunesmith.data.tagging import Scheme, labels_in, read_tags, words_of, write_tags
from tunesmith.data.windows import windows
from tunesmith.errors import DataError, RecipeError
from tunesmith.registry import TASKS
from tunesmith.scores.entities import cells_of, count_entities, macro_f1, micro
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Span, Task
from tunesmith.tasks.parts.fitting import Margins, check_places
from tunesmith.tasks.parts.labels import check_listed, listed_once
from tunesmith.tasks.parts.pieces import by_record

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model

_SD = 0.4


@TASKS.register("tagging")
class Tagging(Task):
    """A text in, the persons, places and other things named in it out."""

    Record = TaggedText
    head = "tagging"
    kinds = frozenset({"decoder", "encoder"})
    objective = "token_classes"
    primary = "f1"

    class Options(BaseModel):
        """How texts and entities are read."""

        model_config = ConfigDict(extra="forbid")

        scheme: Scheme = Field(
            default="bio",
            description="the tags that the model learns, whatever the records are written in: "
            "beginnings and insides (bio), also ends and single words (iobes; bilou is the same "
            "under other letters)",
        )
        labels: list[str] | None = Field(
            default=None,
            min_length=1,
            description="what can be named, in the order of their index; by default what is named "
            "in the training records, sorted",
        )
        max_length: int | None = Field(
            default=None,
            ge=3,
            description="most tokens of a window; by default the model's context",
        )
        overlap: int = Field(
            default=32,
            ge=0,
            description="tokens that neighbouring windows of a long text have in common",
        )

    def __init__(self, options: BaseModel | None = None) -> None:
        super().__init__(options)
        self._named = listed_once(self.options.labels, "label")

    def study(self, records: Sequence[TaggedText]) -> None:
        """Find what is named in the training records.

        Raises:
            DataError: nothing is, or something that `labels` does not list.
        """
        found = {entity.label for record in records for entity in record.entities}
        if not found:
            raise DataError(
                "No training record has an entity: there is nothing to find.",
                where="data.train",
                fix="Give records in which something is tagged.",
            )
        if self.options.labels is None:
            self._named = tuple(sorted(found))
        check_listed(found, self._named, "label")

    @property
    def labels(self) -> tuple[str, ...]:
        """Every tag, in order of its index."""
        return labels_in(self._named, self.options.scheme)

    def bind(self, model: Model) -> None:
        """Take the tokenizer, the tokens that it puts around a text, and the context length.

        Raises:
            ModelError: the tokenizer cannot say where in the text a token stands.
            RecipeError: windows of this length and overlap hold nothing new.
        """
        check_places(model)
        self._tokenizer = model.tokenizer
        self._margins = Margins.of(model, self.options.max_length)
        self._overlap, room = self.options.overlap, self._margins.room
        if self._overlap >= room:
            if "overlap" in self.options.model_fields_set:
                raise RecipeError(
                    f"Windows of {room} tokens of which {self._overlap} are those of the"
                    " window before hold nothing new.",
                    where="task.overlap",
                    fix="Lower it, or raise `task.max_length`.",
                )
            self._overlap = room // 2

    def encode(self, record: TaggedText) -> Encoded:
        """Encode a whole text, however long.

        Raises:
            DataError: something is named that is not learnt.
            UnlearnableError: the text has no tokens.
        """
        (whole,) = self._encode(record, room=1 << 62)
        return whole

    def pieces(self, record: TaggedText) -> list[Encoded]:
        """Encode a text as windows of at most `max_length` tokens."""
        return self._encode(record, self._margins.room)

    def _encode(self, record: TaggedText, room: int) -> list[Encoded]:
        from tunesmith.data.batch import NO_CLASS, Encoded, EncodedStream

        aligned = align(self._tokenizer, record)
        classes = [NO_CLASS] * len(aligned.ids)
        for first, place in zip(aligned.firsts, self._classes(record, aligned), strict=True):
            classes[first] = place
        found = []
        for window in windows(len(aligned.ids), room, self._overlap):
            ids = aligned.ids[window.start : window.end]
            own = (
                classes[place] if window.owns(place) else NO_CLASS
                for place in range(window.start, window.end)
            )
            stream = EncodedStream(
                self._margins.around(ids), classes=self._margins.marked(own, NO_CLASS)
            )
            found.append(Encoded({"text": stream}, continues=window.start > 0))
        return found

    def _classes(self, record: TaggedText, aligned: Aligned) -> list[int]:
        """Return the index of the tag of each word that has a first token of its own."""
        unknown = {entity.label for entity in record.entities} - set(self._named)
        if unknown:
            raise DataError(
                f"The label {min(unknown)!r} is not one of those learnt"
                f" ({', '.join(map(repr, self._named))}).",
                fix="Correct the label, or add training records of it.",
            )
        entities = aligned.narrowed(record.entities)
        tags = write_tags(entities, len(aligned.words), self.options.scheme)
        place_of = {tag: place for place, tag in enumerate(self.labels)}
        return [place_of[tag] for tag in tags]

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """F1, precision and recall of entities, F1 of each label, and figures of single words."""
        named, every = self._named, cells_of(self._named)
        assumption = f"records' changes differ by {_SD:g} (standard deviation)"
        found = [
            Metric(
                "f1", every, lambda sums: micro("f1", sums, named),
                "entities found whole and under their right label: harmonic mean of precision and"
                " recall, over all entities alike",
                assumed_sd=_SD, assumption=assumption,
            ),
            Metric(
                "precision", every, lambda sums: micro("precision", sums, named),
                "share of the entities that the model names which are right",
            ),
            Metric(
                "recall", every, lambda sums: micro("recall", sums, named),
                "share of the entities in the text that the model finds",
            ),
            Metric(
                "macro_f1", every, lambda sums: macro_f1(sums, named),
                "F1 of each label, averaged over the labels (each counts the same)",
                assumed_sd=_SD, assumption=assumption,
            ),
            *(_of_label(label) for label in named),
            Metric.mean(
                "accuracy",
                "share of the words whose likeliest tag is the right one; most words name nothing",
                of="correct", over="words",
            ),
            Metric.mean(
                "log_likelihood",
                "logarithm of the probability that the model gives to the right tag",
                over="words", unit="nats per word", assumed_sd=0.3,
                assumption="records' changes differ by 0.3 nats per word (standard deviation)",
            ),
        ]  # fmt: skip
        return {metric.name: metric for metric in found}

    def measure(
        self,
        engine: Engine,
        records: Sequence[TaggedText],
        examples: Sequence[Encoded],
        *,
        generate: int,
        console: Console,
        tokens_per_batch: int = 4096,
    ) -> list[ExampleScore]:
        """Score every record; `generate` has no meaning here, as nothing is generated."""
        rows = self._log_probabilities(engine, examples, tokens_per_batch, console)
        return [
            self._score(index, record, logprobs_WC)
            for index, (record, logprobs_WC) in enumerate(zip(records, rows, strict=True))
        ]

    def _score(
        self, index: int, record: TaggedText, logprobs_WC: NDArray[np.float64]
    ) -> ExampleScore:
        aligned = align(self._tokenizer, record)
        truth_W = np.array(self._classes(record, aligned))
        statistics = {
            "words": float(len(truth_W)),
            "correct": float((logprobs_WC.argmax(1) == truth_W).sum()),
            "log_likelihood": float(logprobs_WC[np.arange(len(truth_W)), truth_W].sum()),
        }
        found = self._entities(aligned, logprobs_WC)
        statistics |= count_entities(found, record.entities, self._named)
        return ExampleScore(index, statistics, _listed(record, found))

    def _entities(self, aligned: Aligned, logprobs_WC: NDArray[np.float64]) -> list[Entity]:
        """Return the entities that the likeliest tags mark, in words of the record."""
        tags = self.labels
        return aligned.widened(read_tags([tags[place] for place in logprobs_WC.argmax(1)]))

    def _log_probabilities(
        self,
        engine: Engine,
        examples: Sequence[Encoded],
        tokens_per_batch: int,
        console: Console,
    ) -> list[NDArray[np.float64]]:
        """Return for each record the log-probability of each tag for each word, `[W, C]`."""
        from scipy.special import log_softmax

        from tunesmith.data.batch import NO_CLASS
        from tunesmith.engine.outputs import token_outputs

        outputs = token_outputs(
            engine, examples, tokens_per_batch=tokens_per_batch, console=console
        )
        decided = [np.array(each.streams["text"].classes) != NO_CLASS for each in examples]
        pieces = [
            log_softmax(outputs_LC[decided_L], axis=-1)
            for outputs_LC, decided_L in zip(outputs, decided, strict=True)
        ]
        return [np.concatenate(parts) for parts in by_record(examples, pieces)]

    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Return what is named in each text, with its place and probability.

        An input is a text, or a list of words.

        Raises:
            DataError: an input is neither, or has no words.
        """
        from tunesmith.console import Console

        records = [_unlabelled(given, number) for number, given in enumerate(inputs, start=1)]
        origins = [f"input {number}" for number in range(1, len(inputs) + 1)]
        examples = self.encode_all(records, origins)
        rows = self._log_probabilities(engine, examples, 4096, Console(quiet=True))
        return [
            self._prediction(record, logprobs)
            for record, logprobs in zip(records, rows, strict=True)
        ]

    def _prediction(self, record: TaggedText, logprobs_WC: NDArray[np.float64]) -> Prediction:
        aligned = align(self._tokenizer, record)
        best_W = np.exp(logprobs_WC.max(1))
        place_of = {word: place for place, word in enumerate(aligned.words)}
        entities = self._entities(aligned, logprobs_WC)
        spans = []
        for entity in entities:
            decided = [place_of[w] for w in range(entity.start, entity.end) if w in place_of]
            start, end = record.words[entity.start][0], record.words[entity.end - 1][1]
            spans.append(
                Span(start, end, record.said(entity), entity.label, float(best_W[decided].mean()))
            )
        return Prediction(_listed(record, entities), spans=tuple(spans))

    def present(self, record: TaggedText) -> tuple[str, str]:
        """Return the text, and what is named in it."""
        return record.text, _listed(record, record.entities)

    def state(self) -> dict[str, Any]:
        """Return what can be named."""
        return {"labels": list(self._named)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what can be named."""
        self._named = tuple(state["labels"])


def _of_label(label: str) -> Metric:
    return Metric(
        f"f1[{label}]",
        cells_of((label,)),
        lambda sums: micro("f1", sums, (label,)),
        f"F1 of the entities that are {label}",
    )


def _listed(record: TaggedText, entities: Sequence[Entity]) -> str:
    return "; ".join(f"{record.said(e)} [{e.label}]" for e in entities) or "nothing named"


def _unlabelled(given: Any, number: int) -> TaggedText:
    """Make a record of an input.

    Raises:
        DataError: it is no text and no list of words, or has no words.
    """
    where = f"input {number}"
    separate = isinstance(given, list) and all(isinstance(w, str) and w.strip() for w in given)
    if not isinstance(given, str) and not separate:
        raise DataError(
            f"It is a {type(given).__name__}, not a text or a list of words.", where=where
        )
    words = given if separate else words_of(given)
    if not words:
        raise DataError("There are no words in it.", where=where)
    if separate:
        return of_words([word.strip() for word in given], [])
    return TaggedText(text=given, words=words, entities=[])
