"""Multi-label classification: a text, or two, in, all the classes that it belongs to out.

    MultiLabelledText ──encode──> ids + 0 or 1 for each class ──Pooled──> logits ──> micro-F1, …

Each class is decided by itself: it is there where its probability reaches the threshold. There may
be none. Texts are laid out as for `classification`. Figures are those of scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith.data.records import MultiLabelledText, text_of
from tunesmith.errors import DataError, RecipeError, suggest
from tunesmith.models.reading import ReadingOptions
from tunesmith.registry import TASKS
from tunesmith.scores.entities import CELLS, by_label, cell, cells_of, micro, ratio
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Sums
from tunesmith.tasks.parts.text_heads import Classes

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine

Floats = NDArray[np.float64]
Share = Annotated[float, Field(gt=0, lt=1)]

NONE = "none"
_SD = 0.4


@TASKS.register("multi_label")
class MultiLabel(Classes):
    """A text in, or two, all the classes that it belongs to out."""

    Record = MultiLabelledText
    head = "multi_label"
    objective = "binary_classes"
    primary = "micro_f1"

    class Options(ReadingOptions):
        """How texts and classes are read, and when a class is said to be there."""

        labels: list[str] | None = Field(
            default=None,
            min_length=2,
            description="the classes, in the order of their index; by default those of the"
            " training records, sorted",
        )
        threshold: Share | dict[str, Share] = Field(
            default=0.5,
            description="from which probability on a class is there; one for all, or one for each"
            " class (0.5 where none is given)",
        )

    def study(self, records: Sequence[MultiLabelledText]) -> None:
        """Find the classes of the training records; none are needed where `labels` lists them.

        Raises:
            DataError: there are fewer than two, or one that `labels` does not list.
            RecipeError: a threshold is that of no class.
        """
        found = {label for record in records for label in record.labels}
        if len(found) < 2 and not self.options.labels:
            only = f"only {next(iter(found))!r}" if found else "none"
            raise DataError(
                f"The training records have fewer than two classes ({only}).",
                where="data.train",
                fix="Give records of several classes; for a single one that is there or not, use"
                " the task classification.",
            )
        self._take_classes(found, sorted(found))
        self._paired = bool(records) and all(record.other is not None for record in records)
        given = self.options.threshold
        for name in given if isinstance(given, dict) else ():
            if name not in self._labels:
                raise RecipeError(
                    f"There is no class {name!r} to have a threshold.",
                    where="task.threshold",
                    fix=suggest(name, self._labels),
                )

    def encode(self, record: MultiLabelledText) -> Encoded:
        """Encode a text and its classes.

        Raises:
            DataError: a class is unknown.
            UnlearnableError: the text has no tokens.
        """
        self._check_known(record.labels)
        truth = tuple(float(label in record.labels) for label in self._labels)
        return self._encode(record.text, record.other, truth)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """F1 over all classes alike and averaged, precision, recall, whole records, likelihood."""
        every, labels = cells_of(self._labels), self._labels
        assumption = f"records' changes differ by {_SD:g} (standard deviation)"
        found = [
            Metric(
                "micro_f1", every, lambda sums: micro("f1", sums, labels),
                "harmonic mean of precision and recall, over all classes of all records alike",
                assumed_sd=_SD, assumption=assumption,
            ),
            Metric(
                "macro_f1", every, lambda sums: _macro_f1(sums, labels),
                "F1 of each class, averaged over the classes (each counts the same)",
                assumed_sd=_SD, assumption=assumption,
            ),
            Metric(
                "precision", every, lambda sums: micro("precision", sums, labels),
                "share of the classes that the model says which are right",
            ),
            Metric(
                "recall", every, lambda sums: micro("recall", sums, labels),
                "share of the classes of the records that the model says",
            ),
            Metric.mean(
                "exact_match", "share of the records of which all classes are said, and no other",
                of="exact", assumed_sd=_SD, assumption=assumption,
            ),
            Metric.mean(
                "log_likelihood",
                "logarithm of the probability that the model gives to a class being there or not,"
                " as it is",
                over="decisions", unit="nats per class", assumed_sd=0.3,
                assumption="records' changes differ by 0.3 nats per class (standard deviation)",
            ),
        ]  # fmt: skip
        return {metric.name: metric for metric in found}

    def measure(
        self,
        engine: Engine,
        records: Sequence[MultiLabelledText],
        examples: Sequence[Encoded],
        *,
        generate: int,
        console: Console,
        tokens_per_batch: int = 4096,
    ) -> list[ExampleScore]:
        """Score every record; `generate` has no meaning here, as nothing is generated."""
        outputs_NC = self._outputs(engine, examples, tokens_per_batch, console)
        return [
            self._score(index, np.array(example.label), row)
            for index, (example, row) in enumerate(zip(examples, outputs_NC, strict=True))
        ]

    def _score(self, index: int, truth_C: Floats, outputs_C: Floats) -> ExampleScore:
        said_C = self._said(outputs_C)
        right_C = truth_C.astype(bool)
        cells = zip(CELLS, (said_C & right_C, said_C & ~right_C, ~said_C & right_C), strict=True)
        statistics = {
            "count": 1.0,
            "exact": float((said_C == right_C).all()),
            "decisions": float(len(truth_C)),
            "log_likelihood": float(-np.logaddexp(0, np.where(right_C, -1, 1) * outputs_C).sum()),
        }
        for name, group_C in cells:
            for label, there in zip(self._labels, group_C, strict=True):
                statistics[cell(name, label)] = float(there)
        return ExampleScore(index, statistics, self._listed(said_C))

    def _said(self, outputs_C: Floats) -> NDArray[np.bool_]:
        """Return which classes are there: whose probability reaches the threshold."""
        given = self.options.threshold
        shares = given if isinstance(given, dict) else dict.fromkeys(self._labels, given)
        threshold_C = np.array([shares.get(label, 0.5) for label in self._labels])
        said_C: NDArray[np.bool_] = outputs_C >= np.log(threshold_C / (1 - threshold_C))
        return said_C

    def _listed(self, said_C: NDArray[np.bool_]) -> str:
        return _joined([label for label, there in zip(self._labels, said_C, strict=True) if there])

    def _prediction(self, outputs_C: Floats) -> Prediction:
        """Return the classes that are there, and the probability of every class."""
        from scipy.special import expit

        probabilities = dict(zip(self._labels, expit(outputs_C).tolist(), strict=True))
        return Prediction(self._listed(self._said(outputs_C)), probabilities)

    def present(self, record: MultiLabelledText) -> tuple[str, str]:
        """Return the text (both, where there are two) and its classes."""
        return text_of(record), _joined([name for name in self._labels if name in record.labels])


def _macro_f1(sums: Sums, labels: Sequence[str]) -> Floats:
    """Mean F1 over all classes, 0 for one that neither occurs nor is said (scikit-learn's)."""
    mean: Floats = ratio("f1", *by_label(sums, labels)).mean(0)
    return mean


def _joined(labels: Sequence[str]) -> str:
    return "; ".join(labels) or NONE
