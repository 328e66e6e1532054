"""Classification: a text, or two, in, one of several classes out.

    LabelledText ──encode──> ids + class index ──Pooled──> logits ──> accuracy, macro-F1, …

The ids are exactly what the tokenizer makes of a text, or of a pair, by default (`models.reading`),
so that the saved model answers the same when transformers alone calls it. Decoders are pooled at
the last token, encoders as their own head does it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from tunesmith.data.labelled import given_texts
from tunesmith.data.records import LabelledText, text_of
from tunesmith.errors import DataError
from tunesmith.models.reading import Reader, ReadingOptions
from tunesmith.registry import TASKS
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Sums, Task
from tunesmith.tasks.parts.labels import check_listed, listed_once

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model

_DISCORDANT = 0.2


@TASKS.register("classification")
class Classification(Task):
    """A text in, or two, one of several classes out."""

    Record = LabelledText
    head = "classification"
    kinds = frozenset({"decoder", "encoder"})
    objective = "classes"
    primary = "accuracy"

    class Options(ReadingOptions):
        """How texts and classes are read."""

        labels: list[str] | None = Field(
            default=None,
            min_length=2,
            description="the classes, in the order of their index; by default those of the"
            " training records, sorted (numbers by size)",
        )

    def __init__(self, options: BaseModel | None = None) -> None:
        super().__init__(options)
        self._labels = listed_once(self.options.labels, "class")
        self._paired = False  # whether all that was learnt from had two texts

    def study(self, records: Sequence[LabelledText]) -> None:
        """Find the classes of the training records; none are needed where `labels` lists them.

        Raises:
            DataError: there is one class only, or one that `labels` does not list.
        """
        found = {record.label for record in records}
        if not found and self.options.labels:
            return
        if len(found) < 2:
            only = f"all are {next(iter(found))!r}" if found else "there are none"
            raise DataError(
                f"The training records have one class only ({only}): there is nothing to tell"
                " apart.",
                where="data.train",
                fix="Give records of at least two classes.",
            )
        if self.options.labels is None:
            self._labels = _in_order(found)
        check_listed(found, self._labels, "class")
        self._paired = all(record.other is not None for record in records)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in order of their index."""
        return self._labels

    def bind(self, model: Model) -> None:
        """Take the tokenizer, and how it lays texts out."""
        self._reader = Reader(model, self.options)

    def encode(self, record: LabelledText) -> Encoded:
        """Encode a text and its class.

        Raises:
            DataError: the class is unknown.
            UnlearnableError: the text has no tokens.
        """
        if record.label not in self._labels:
            raise DataError(
                f"The class {record.label!r} is not one of those learnt"
                f" ({', '.join(map(repr, self._labels))}).",
                fix="Correct the label, or add training records of that class.",
            )
        return self._encode(record.text, record.other, self._labels.index(record.label))

    def _encode(self, text: str, other: str | None, label: int | None) -> Encoded:
        from tunesmith.data.batch import Encoded

        stream, cut = self._reader.lay(text, other)
        return Encoded({"text": stream}, label, cut)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Accuracy, macro-F1, log-likelihood of the right class, Brier score."""
        found = [
            Metric(
                "accuracy",
                ("correct", "count"),
                lambda sums: sums["correct"] / sums["count"],
                "share of the records whose most likely class is the right one",
                assumed_sd=_DISCORDANT**0.5,
                assumption=f"{_DISCORDANT:.0%} of the records change between right and wrong",
            ),
            Metric(
                "macro_f1",
                tuple(_cell(cell, label) for label in self._labels for cell in _CELLS),
                self._macro_f1,
                "F1 of each class, averaged over the classes (each counts the same)",
                assumed_sd=_DISCORDANT**0.5,
                assumption=f"{_DISCORDANT:.0%} of the records change between right and wrong",
            ),
            Metric(
                "log_likelihood",
                ("log_likelihood", "count"),
                lambda sums: sums["log_likelihood"] / sums["count"],
                "logarithm of the probability that the model gives to the right class",
                unit="nats per record",
                assumed_sd=0.5,
                assumption="records' changes differ by 0.5 nats (standard deviation)",
            ),
            Metric(
                "brier",
                ("brier", "count"),
                lambda sums: sums["brier"] / sums["count"],
                "squared distance between the stated probabilities and the truth (0 to 2): are"
                " they right, and as sure as they should be?",
                higher_is_better=False,
            ),
        ]
        return {metric.name: metric for metric in found}

    def _macro_f1(self, sums: Sums) -> NDArray[np.float64]:
        """Mean F1 over the classes that occur in truth or prediction, as scikit-learn has it."""
        tp, fp, fn = (
            np.stack([np.asarray(sums[_cell(cell, label)]) for label in self._labels])
            for cell in _CELLS
        )
        occurs = (tp + fp + fn) > 0
        f1 = np.where(occurs, 2 * tp / np.where(occurs, 2 * tp + fp + fn, 1), 0.0)
        mean: NDArray[np.float64] = f1.sum(0) / np.maximum(occurs.sum(0), 1)
        return mean

    def measure(
        self,
        engine: Engine,
        records: Sequence[LabelledText],
        examples: Sequence[Encoded],
        *,
        generate: int,
        console: Console,
        tokens_per_batch: int = 4096,
    ) -> list[ExampleScore]:
        """Score every record; `generate` has no meaning here, as nothing is generated."""
        outputs = self._log_probabilities(engine, examples, tokens_per_batch, console)
        return [
            self._score(index, int(cast(int, example.label)), row)
            for index, (example, row) in enumerate(zip(examples, outputs, strict=True))
        ]

    def _score(self, index: int, truth: int, logprobs_C: NDArray[np.float64]) -> ExampleScore:
        guess = int(logprobs_C.argmax())
        onehot_C = np.eye(len(self._labels))[truth]
        statistics = {
            "count": 1.0,
            "correct": float(guess == truth),
            "log_likelihood": float(logprobs_C[truth]),
            "brier": float(((np.exp(logprobs_C) - onehot_C) ** 2).sum()),
        }
        for place, label in enumerate(self._labels):
            statistics[_cell("true_positives", label)] = float(place == guess == truth)
            statistics[_cell("false_positives", label)] = float(place == guess != truth)
            statistics[_cell("false_negatives", label)] = float(place == truth != guess)
        return ExampleScore(index, statistics, self._labels[guess])

    def _log_probabilities(
        self,
        engine: Engine,
        examples: Sequence[Encoded],
        tokens_per_batch: int,
        console: Console,
    ) -> NDArray[np.float64]:
        """Return the log-probability of each class for each example, `[examples, C]`."""
        from scipy.special import log_softmax

        from tunesmith.engine.outputs import document_outputs

        outputs_NC = document_outputs(
            engine, examples, tokens_per_batch=tokens_per_batch, console=console
        )
        logprobs_NC: NDArray[np.float64] = log_softmax(outputs_NC, axis=-1)
        return logprobs_NC

    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Return the most likely class of each text, and the probability of every class.

        An input is a text, or an object with `text` and `text_pair`.

        Raises:
            DataError: an input is neither, or has no tokens.
        """
        from tunesmith.console import Console

        examples = [
            self._encode(*given_texts(given, number, paired=self._paired), None)
            for number, given in enumerate(inputs, start=1)
        ]
        rows = np.exp(self._log_probabilities(engine, examples, 4096, Console(quiet=True)))
        return [
            Prediction(
                self._labels[int(row.argmax())], dict(zip(self._labels, row.tolist(), strict=True))
            )
            for row in rows
        ]

    def present(self, record: LabelledText) -> tuple[str, str]:
        """Return the text (both, where there are two) and its class."""
        return text_of(record), record.label

    def state(self) -> dict[str, Any]:
        """Return the class names, and whether two texts were learnt from."""
        return {"labels": list(self._labels), "paired": self._paired}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back the class names, and whether two texts were learnt from."""
        self._labels = tuple(state["labels"])
        self._paired = bool(state.get("paired", False))


_CELLS = ("true_positives", "false_positives", "false_negatives")


def _cell(cell: str, label: str) -> str:
    return f"{cell}[{label}]"


def _in_order(labels: set[str]) -> tuple[str, ...]:
    """Sort class names; by size where all of them are numbers."""
    try:
        sizes = {label: float(label) for label in labels}
    except ValueError:
        return tuple(sorted(labels))
    if not all(math.isfinite(size) for size in sizes.values()):
        return tuple(sorted(labels))
    return tuple(sorted(labels, key=lambda label: (sizes[label], label)))
