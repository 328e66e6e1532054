"""Tasks in which a head says something of a whole text, or of two read together.

    text [, other] ──Reader──> ids ──Pooled──> what the head says, `outputs_C` ──> Prediction

What it means, and what is right, says the task. Of classes, `Classes` keeps the names: they are
found in the training records, or listed by the user.

Shapes: N examples, C outputs of the head.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from tunesmith.data.labelled import given_texts
from tunesmith.errors import DataError
from tunesmith.models.reading import Reader, ReadingOptions
from tunesmith.tasks.base import Prediction, Task
from tunesmith.tasks.parts.labels import check_listed, listed_once

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model

Floats = NDArray[np.float64]
Label = int | float | tuple[float, ...]


class TextHead(Task):
    """A text in, or two, and what the head says of it out."""

    kinds = frozenset({"decoder", "encoder"})

    class Options(ReadingOptions):
        """How texts are read."""

    _paired = False
    """Whether all that was learnt from had two texts."""

    def bind(self, model: Model) -> None:
        """Take the tokenizer, and how it lays texts out."""
        self._reader = Reader(model, self.options)

    def _encode(self, text: str, other: str | None, label: Label | None) -> Encoded:
        from tunesmith.data.batch import Encoded

        stream, cut = self._reader.lay(text, other)
        return Encoded({"text": stream}, label, cut)

    def _outputs(
        self, engine: Engine, examples: Sequence[Encoded], tokens_per_batch: int, console: Console
    ) -> Floats:
        """Return what the head says of each example, `[N, C]`."""
        from tunesmith.engine.outputs import document_outputs

        return document_outputs(
            engine, examples, tokens_per_batch=tokens_per_batch, console=console
        )

    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Return what the head says of each text.

        An input is a text, or an object with `text` and `text_pair`.

        Raises:
            DataError: an input is neither, or has no tokens.
        """
        from tunesmith.console import Console

        examples = [
            self._encode(*given_texts(given, number, paired=self._paired), None)
            for number, given in enumerate(inputs, start=1)
        ]
        outputs_NC = self._outputs(engine, examples, 4096, Console(quiet=True))
        return [self._prediction(outputs_C) for outputs_C in outputs_NC]

    @abstractmethod
    def _prediction(self, outputs_C: Floats) -> Prediction:
        """Return what is predicted of a text of which `_outputs` are these."""

    def state(self) -> dict[str, Any]:
        """Return whether two texts were learnt from."""
        return {"paired": self._paired}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back whether two texts were learnt from."""
        self._paired = bool(state.get("paired", False))


class Classes(TextHead):
    """A text in, or two, and of several classes those to which it belongs out."""

    def __init__(self, options: BaseModel | None = None) -> None:
        super().__init__(options)
        self._labels = listed_once(self.options.labels, "class")

    def _take_classes(self, found: set[str], in_order: Iterable[str]) -> None:
        """Take the classes of the training records, unless the user lists them.

        Raises:
            DataError: there is one that the user does not list.
        """
        if self.options.labels is None:
            self._labels = tuple(in_order)
        check_listed(found, self._labels, "class")

    def _check_known(self, named: Iterable[str]) -> None:
        """Raise DataError where a record has a class that is not learnt."""
        unknown = set(named) - set(self._labels)
        if unknown:
            raise DataError(
                f"The class {min(unknown)!r} is not one of those learnt"
                f" ({', '.join(map(repr, self._labels))}).",
                fix="Correct the label, or add training records of that class.",
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in order of their index."""
        return self._labels

    def state(self) -> dict[str, Any]:
        """Return the class names, and whether two texts were learnt from."""
        return {"labels": list(self._labels), **super().state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back the class names, and whether two texts were learnt from."""
        super().load_state(state)
        self._labels = tuple(state["labels"])
