"""Multi-label classification: a text, or two, in, all the classes that it belongs to out.

    MultiLabelledText ──encode──> ids + 0 or 1 for each class ──Pooled──> logits ──> micro-F1, …

Each class is decided by itself: it is there where its probability reaches the threshold. There may
be none. Texts are laid out as for `classification`. Figures are those of scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from tunesmith.data.labelled import given_texts
from tunesmith.data.records import MultiLabelledText, text_of
from tunesmith.errors import DataError, RecipeError, suggest
from tunesmith.models.reading import Reader, ReadingOptions
from tunesmith.registry import TASKS
from tunesmith.scores.entities import CELLS, by_label, cell, cells_of, micro, ratio
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Sums, Task
from tunesmith.tasks.parts.labels import check_listed, listed_once

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model

Floats = NDArray[np.float64]
Share = Annotated[float, Field(gt=0, lt=1)]

NONE = "none"
_SD = 0.4


@TASKS.register("multi_label")
class MultiLabel(Task):
    """A text in, or two, all the classes that it belongs to out."""

    Record = MultiLabelledText
    head = "multi_label"
    kinds = frozenset({"decoder", "encoder"})
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

    def __init__(self, options: BaseModel | None = None) -> None:
        super().__init__(options)
        self._labels = listed_once(self.options.labels, "class")
        self._paired = False  # whether all that was learnt from had two texts

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
        if self.options.labels is None:
            self._labels = tuple(sorted(found))
        check_listed(found, self._labels, "class")
        self._paired = bool(records) and all(record.other is not None for record in records)
        given = self.options.threshold
        for name in given if isinstance(given, dict) else ():
            if name not in self._labels:
                raise RecipeError(
                    f"There is no class {name!r} to have a threshold.",
                    where="task.threshold",
                    fix=suggest(name, self._labels),
                )

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in order of their index."""
        return self._labels

    def bind(self, model: Model) -> None:
        """Take the tokenizer, and how it lays texts out."""
        self._reader = Reader(model, self.options)

    def encode(self, record: MultiLabelledText) -> Encoded:
        """Encode a text and its classes.

        Raises:
            DataError: a class is unknown.
            UnlearnableError: the text has no tokens.
        """
        unknown = set(record.labels) - set(self._labels)
        if unknown:
            raise DataError(
                f"The class {min(unknown)!r} is not one of those learnt"
                f" ({', '.join(map(repr, self._labels))}).",
                fix="Correct the label, or add training records of that class.",
            )
        truth = tuple(float(label in record.labels) for label in self._labels)
        return self._encode(record.text, record.other, truth)

    def _encode(self, text: str, other: str | None, label: tuple[float, ...] | None) -> Encoded:
        from tunesmith.data.batch import Encoded

        stream, cut = self._reader.lay(text, other)
        return Encoded({"text": stream}, label, cut)

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
            Metric(
                "exact_match", ("exact", "count"), lambda sums: sums["exact"] / sums["count"],
                "share of the records of which all classes are said, and no other",
                assumed_sd=_SD, assumption=assumption,
            ),
            Metric(
                "log_likelihood", ("log_likelihood", "decisions"),
                lambda sums: sums["log_likelihood"] / sums["decisions"],
                "logarithm of the probability that the model gives to a class being there or not,"
                " as it is",
                unit="nats per class", assumed_sd=0.3,
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
        from tunesmith.engine.outputs import document_outputs

        outputs_NC = document_outputs(
            engine, examples, tokens_per_batch=tokens_per_batch, console=console
        )
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

    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Return the classes of each text, and the probability of every class.

        An input is a text, or an object with `text` and `text_pair`.

        Raises:
            DataError: an input is neither, or has no tokens.
        """
        from scipy.special import expit

        from tunesmith.console import Console
        from tunesmith.engine.outputs import document_outputs

        examples = [
            self._encode(*given_texts(given, number, paired=self._paired), None)
            for number, given in enumerate(inputs, start=1)
        ]
        outputs_NC = document_outputs(
            engine, examples, tokens_per_batch=4096, console=Console(quiet=True)
        )
        return [
            Prediction(
                self._listed(self._said(row)),
                dict(zip(self._labels, expit(row).tolist(), strict=True)),
            )
            for row in outputs_NC
        ]

    def present(self, record: MultiLabelledText) -> tuple[str, str]:
        """Return the text (both, where there are two) and its classes."""
        return text_of(record), _joined([name for name in self._labels if name in record.labels])

    def state(self) -> dict[str, Any]:
        """Return the class names, and whether two texts were learnt from."""
        return {"labels": list(self._labels), "paired": self._paired}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back the class names, and whether two texts were learnt from."""
        self._labels = tuple(state["labels"])
        self._paired = bool(state["paired"])


def _macro_f1(sums: Sums, labels: Sequence[str]) -> Floats:
    """Mean F1 over all classes, 0 for one that neither occurs nor is said (scikit-learn's)."""
    mean: Floats = ratio("f1", *by_label(sums, labels)).mean(0)
    return mean


def _joined(labels: Sequence[str]) -> str:
    return "; ".join(labels) or NONE
