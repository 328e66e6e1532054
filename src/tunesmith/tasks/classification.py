"""Classification: a text, or two, in, one of several classes out.

    LabelledText ──encode──> ids + class index ──Pooled──> logits ──> accuracy, macro-F1, …

The ids are exactly what the tokenizer makes of a text, or of a pair, by default (`models.reading`),
so that the saved model answers the same when transformers alone calls it. Decoders are pooled at
the last token, encoders as their own head does it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith.data.records import LabelledText, text_of
from tunesmith.errors import DataError
from tunesmith.models.reading import ReadingOptions
from tunesmith.registry import TASKS
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Sums
from tunesmith.tasks.parts.text_heads import Classes

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine

_DISCORDANT = 0.2


@TASKS.register("classification")
class Classification(Classes):
    """A text in, or two, one of several classes out."""

    Record = LabelledText
    head = "classification"
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
        self._take_classes(found, _in_order(found))
        self._paired = all(record.other is not None for record in records)

    def encode(self, record: LabelledText) -> Encoded:
        """Encode a text and its class.

        Raises:
            DataError: the class is unknown.
            UnlearnableError: the text has no tokens.
        """
        self._check_known([record.label])
        return self._encode(record.text, record.other, self._labels.index(record.label))

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Accuracy, macro-F1, log-likelihood of the right class, Brier score."""
        found = [
            Metric.mean(
                "accuracy",
                "share of the records whose most likely class is the right one",
                of="correct",
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
            Metric.mean(
                "log_likelihood",
                "logarithm of the probability that the model gives to the right class",
                unit="nats per record",
                assumed_sd=0.5,
                assumption="records' changes differ by 0.5 nats (standard deviation)",
            ),
            Metric.mean(
                "brier",
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
        outputs = self._outputs(engine, examples, tokens_per_batch, console)
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

    def _outputs(
        self, engine: Engine, examples: Sequence[Encoded], tokens_per_batch: int, console: Console
    ) -> NDArray[np.float64]:
        """Return the log-probability of each class for each example, `[N, C]`."""
        from scipy.special import log_softmax

        outputs_NC = super()._outputs(engine, examples, tokens_per_batch, console)
        logprobs_NC: NDArray[np.float64] = log_softmax(outputs_NC, axis=-1)
        return logprobs_NC

    def _prediction(self, outputs_C: NDArray[np.float64]) -> Prediction:
        """Return the most likely class, and the probability of every class."""
        probabilities = dict(zip(self._labels, np.exp(outputs_C).tolist(), strict=True))
        return Prediction(self._labels[int(outputs_C.argmax())], probabilities)

    def present(self, record: LabelledText) -> tuple[str, str]:
        """Return the text (both, where there are two) and its class."""
        return text_of(record), record.label


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
