"""Extraction: a text and a question in, the part of the text that answers it out, or nothing.

    QuestionedText ──pieces──> question + window of the text ──PerToken──> begin, end ──> F1, EM

Question and text are laid out as the tokenizer lays out a pair (`[CLS] question [SEP] text [SEP]`
for a BERT; `data/question_windows.py`). A text longer than `max_length` becomes windows that
overlap by `stride`, each with the whole question; a window without the answer is learnt to point at
its first token, which is the sign for "no answer". The best span of all windows is the answer;
where unanswerable questions were learnt, the score of saying nothing is held against it. Figures
are those of SQuAD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.data.question_windows import NO_ANSWER, Laid, QuestionLayout
from tunesmith.data.records import QuestionedText
from tunesmith.data.windows import Window
from tunesmith.errors import DataError, UnlearnableError
from tunesmith.registry import TASKS
from tunesmith.scores.answers import best_span, exact, overlap
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Span, Task
from tunesmith.tasks.parts.fitting import check_places, most_tokens
from tunesmith.tasks.parts.pieces import by_record

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model

Floats = NDArray[np.float64]

SILENCE = "no answer"
_SD = 0.4


@dataclass(frozen=True)
class _Found:
    """The best part of a text: its characters, score, probability, and that of saying nothing."""

    start: int
    end: int
    score: float
    probability: float
    silence: float


@TASKS.register("extraction")
class Extraction(Task):
    """A text and a question in, the part of the text that answers it out."""

    Record = QuestionedText
    head = "extraction"
    kinds = frozenset({"decoder", "encoder"})
    objective = "spans"
    primary = "f1"

    class Options(BaseModel):
        """How long texts are cut, and when nothing is said."""

        model_config = ConfigDict(extra="forbid")

        max_length: int | None = Field(
            default=None,
            ge=8,
            description="most tokens of question and window together; by default the model's "
            "context",
        )
        stride: int = Field(
            default=128,
            ge=0,
            description="tokens of the text that neighbouring windows have in common; at most half "
            "a window",
        )
        max_answer_length: int = Field(default=30, ge=1, description="most tokens of an answer")
        no_answer_threshold: float = Field(
            default=0.0,
            allow_inf_nan=False,
            description="by how much the score of saying nothing must exceed that of the best "
            "answer (in logits); of use where unanswerable questions were learnt",
        )

    _silent = False  # whether unanswerable questions were learnt

    def study(self, records: Sequence[QuestionedText]) -> None:
        """Find out whether some questions have no answer.

        Raises:
            DataError: none of them has one.
        """
        if not any(record.answers for record in records):
            raise DataError(
                "No training record has an answer: there is nothing to find.",
                where="data.train",
                fix="Give questions whose answers stand in their texts.",
            )
        self._silent = not all(record.answers for record in records)

    def bind(self, model: Model) -> None:
        """Take the tokenizer, how it lays out a pair, and the context length.

        The engine gives all tokens one type; so that others read pairs alike, the tokenizer is told
        to give none (BERT's gives the text another type than the question).

        Raises:
            ModelError: the tokenizer cannot say where in the text a token stands.
        """
        check_places(model)
        tokenizer = model.tokenizer
        names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
        length = most_tokens(model, self.options.max_length)
        self._layout = QuestionLayout(tokenizer, length, self.options.stride)

    def encode(self, record: QuestionedText) -> Encoded:
        """Encode a question with the whole text, however long."""
        laid = self._layout.lay(record, whole=True)
        return _example(laid, laid.windows[0])

    def pieces(self, record: QuestionedText) -> list[Encoded]:
        """Encode a question with each window of its text.

        Raises:
            UnlearnableError: question or text has no tokens, or no window holds the answer.
            DataError: the question leaves no room for the text.
        """
        laid = self._layout.lay(record)
        found = [_example(laid, window) for window in laid.windows]
        if laid.answer is not None and all(example.label == NO_ANSWER for example in found):
            raise UnlearnableError(
                f"The answer has {laid.answer[1] - laid.answer[0] + 1} tokens, so that no window of"
                f" {laid.windows[0].end} holds it whole.",
                fix="Raise `task.max_length` or `task.stride`, or shorten the answer.",
            )
        return found

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """F1 of words and exact match, of all questions and of those with and without an answer."""
        assumption = f"records' changes differ by {_SD:g} (standard deviation)"
        found = [
            Metric.mean(
                "f1",
                "words in common with the nearest right answer (F1 of each, averaged), as SQuAD"
                " counts",
                assumed_sd=_SD, assumption=assumption,
            ),
            Metric.mean(
                "exact_match",
                "share of the questions whose answer is exactly a right one, but for case,"
                " punctuation and articles",
                of="exact", assumed_sd=_SD, assumption=assumption,
            ),
            Metric.mean(
                "log_likelihood",
                "logarithm of the probability that the model gives to the right beginning and end,"
                " their mean",
                over="windows", unit="nats per window", assumed_sd=0.5,
                assumption="records' changes differ by 0.5 nats per window (standard deviation)",
            ),
        ]  # fmt: skip
        if self._silent:
            found += [
                Metric.mean(
                    "answerable_f1",
                    "F1 of the questions that have an answer",
                    of="f1",
                    over="answerable",
                ),
                Metric.mean(
                    "silence",
                    "share of the questions without an answer on which the model says nothing",
                    of="exact",
                    over="unanswerable",
                ),
            ]
        return {metric.name: metric for metric in found}

    def measure(
        self,
        engine: Engine,
        records: Sequence[QuestionedText],
        examples: Sequence[Encoded],
        *,
        generate: int,
        console: Console,
        tokens_per_batch: int = 4096,
    ) -> list[ExampleScore]:
        """Score every record; `generate` has no meaning here, as nothing is generated."""
        rows = self._outputs(engine, examples, tokens_per_batch, console)
        return [
            self._score(index, record, outputs)
            for index, (record, outputs) in enumerate(zip(records, rows, strict=True))
        ]

    def _score(self, index: int, record: QuestionedText, outputs: Sequence[Floats]) -> ExampleScore:
        laid = self._layout.lay(record)
        said = self._said(record, self._best(laid, outputs))
        right = [answer.text for answer in record.answers]
        likelihood = 0.0
        for window, outputs_LC in zip(laid.windows, outputs, strict=True):
            rows = list(laid.label(window))
            likelihood += float(_log_softmax(outputs_LC)[rows, [0, 1]].mean())
        statistics = {
            "count": 1.0,
            "exact": exact(said, right),
            "f1": overlap(said, right),
            "log_likelihood": likelihood,
            "windows": float(len(outputs)),
            "answerable" if right else "unanswerable": 1.0,
        }
        return ExampleScore(index, statistics, said or SILENCE)

    def _best(self, laid: Laid, outputs: Sequence[Floats]) -> _Found:
        """Return the best span of all windows, and the least score of saying nothing."""
        found: list[_Found] = []
        silence = min(float(outputs_LC[0].sum()) for outputs_LC in outputs)
        for window, outputs_LC in zip(laid.windows, outputs, strict=True):
            first = len(laid.before)
            begins, ends = outputs_LC[first : first + window.end - window.start].T
            start, end, score = best_span(begins, ends, self.options.max_answer_length)
            logprobs_LC = _log_softmax(outputs_LC)
            probability = float(np.exp(logprobs_LC[first + start, 0] + logprobs_LC[first + end, 1]))
            begun, ended = (laid.offsets[window.start + place] for place in (start, end))
            found.append(_Found(begun[0], ended[1], score, probability, silence))
        return max(found, key=lambda each: each.score)

    def _said(self, record: QuestionedText, found: _Found) -> str:
        """Return the answer; empty where saying nothing scores higher."""
        if self._silent and found.silence - found.score > self.options.no_answer_threshold:
            return ""
        return record.text[found.start : found.end].strip()

    def _outputs(
        self,
        engine: Engine,
        examples: Sequence[Encoded],
        tokens_per_batch: int,
        console: Console,
    ) -> list[list[Floats]]:
        """Return for each record the logits of each of its windows, `[L, 2]`."""
        from tunesmith.engine.outputs import token_outputs

        found = token_outputs(engine, examples, tokens_per_batch=tokens_per_batch, console=console)
        return by_record(examples, found)

    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Answer questions on texts.

        An input is an object with `question` and `context`, or a text whose first line is the
        question.

        Raises:
            DataError: an input is neither, or the question is too long.
        """
        from tunesmith.console import Console

        records = [_asked(given, number) for number, given in enumerate(inputs, start=1)]
        origins = [f"input {number}" for number in range(1, len(inputs) + 1)]
        examples = self.encode_all(records, origins)
        rows = self._outputs(engine, examples, 4096, Console(quiet=True))
        return [
            self._prediction(record, outputs) for record, outputs in zip(records, rows, strict=True)
        ]

    def _prediction(self, record: QuestionedText, outputs: Sequence[Floats]) -> Prediction:
        found = self._best(self._layout.lay(record), outputs)
        said = self._said(record, found)
        if not said:
            return Prediction(SILENCE)
        start = record.text.index(said, found.start)
        span = Span(start, start + len(said), said, "answer", found.probability)
        return Prediction(said, spans=(span,))

    def present(self, record: QuestionedText) -> tuple[str, str]:
        """Return the question with its text, and the right answers."""
        right = dict.fromkeys(answer.text for answer in record.answers)
        return f"{record.question}\n\n{record.text}", " / ".join(right) or SILENCE

    def state(self) -> dict[str, Any]:
        """Return whether unanswerable questions were learnt."""
        return {"silent": self._silent}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back whether unanswerable questions were learnt."""
        self._silent = bool(state["silent"])


def _example(laid: Laid, window: Window) -> Encoded:
    from tunesmith.data.batch import Encoded, EncodedStream

    stream = EncodedStream(laid.tokens(window))
    return Encoded({"text": stream}, laid.label(window), continues=window.start > 0)


def _log_softmax(outputs_LC: Floats) -> Floats:
    shifted = outputs_LC - outputs_LC.max(0)
    logprobs: Floats = shifted - np.log(np.exp(shifted).sum(0))
    return logprobs


def _asked(given: Any, number: int) -> QuestionedText:
    question: Any = None
    text: Any = None
    if isinstance(given, str):
        question, _, text = given.strip().partition("\n")
    elif isinstance(given, Mapping):
        question, text = given.get("question"), given.get("context")
    said = [part for part in (question, text) if isinstance(part, str) and part.strip()]
    if len(said) < 2:
        raise DataError(
            "It is no question with a text.",
            where=f"input {number}",
            fix='Give {"question": …, "context": …}, or a text whose first line is the question.',
        )
    return QuestionedText(text=said[1], question=said[0], answers=[])
