"""What is learnt: the contract of a task.

    record ──encode──> Encoded            what the model reads and what it learns of it
    records ──measure──> ExampleScore     per-example sufficient statistics, before and after
    statistics ──Metric──> figure         a function of *sums*, so that a bootstrap resamples rows

A task is bound to a tokenizer once (`bind`); its option model is importable without torch.
It knows no file, recipe, technique or loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model

Sums = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Metric:
    """A figure made of sums of per-example statistics.

    `compute` gets, for each name in `statistics`, an array of sums of any shape, and returns an
    array of the same shape: one call serves the point estimate and all bootstrap resamples.
    """

    name: str
    statistics: tuple[str, ...]
    compute: Callable[[Sums], NDArray[np.float64]]
    description: str
    higher_is_better: bool = True
    unit: str = ""


@dataclass(frozen=True)
class ExampleScore:
    """What one test record got: its statistics by name, and what the model answered, if it did.

    A statistic that was not measured for this record (generation on a subset) is absent.
    """

    index: int
    statistics: dict[str, float]
    output: str | None = None


@dataclass(frozen=True)
class Prediction:
    """What a model says to one input: a text or a class, with the probability of each class."""

    text: str
    probabilities: dict[str, float] = field(default_factory=dict)


class Task(ABC):
    """Something to learn; `name` is set by the registry."""

    name: ClassVar[str]
    Record: ClassVar[type[BaseModel]]
    head: ClassVar[str]
    """`causal_lm` or `classification`: what the model is loaded with."""
    kinds: ClassVar[frozenset[str]]
    """Kinds of model that can learn it: `decoder`, `encoder`."""
    objective: ClassVar[str]
    primary: ClassVar[str]
    """The metric that decides, unless the recipe names another."""

    class Options(BaseModel):
        """No options."""

        model_config = ConfigDict(extra="forbid")

    def __init__(self, options: BaseModel | None = None) -> None:
        self.options: Any = options or self.Options()

    def study(self, records: Sequence[Any]) -> None:
        """Learn from the training records what must be known before loading (class names).

        Raises:
            DataError: the records cannot be learnt from (one class only).
        """

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in order of their index; empty where the task has none."""
        return ()

    @abstractmethod
    def bind(self, model: Model) -> None:
        """Take the tokenizer and the context length of `model`; called once, before `encode`."""

    @abstractmethod
    def encode(self, record: Any) -> Encoded:
        """Encode one record. What did not fit is named in `Encoded.cut`.

        Raises:
            DataError: the record cannot be encoded (an unknown class).
        """

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics that `measure` makes possible, by name."""

    @abstractmethod
    def measure(
        self,
        engine: Engine,
        records: Sequence[Any],
        examples: Sequence[Encoded],
        *,
        generate: int,
        console: Console,
    ) -> list[ExampleScore]:
        """Score every record with the weights as they are now.

        Args:
            records: the raw records; `examples` are the same ones, encoded.
            generate: on how many records (the first so many) to measure by real generation.
        """

    @abstractmethod
    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Answer inputs of a user: texts, or for `instruct` also lists of chat messages."""

    def state(self) -> dict[str, Any]:
        """Return what `study` found, as JSON data, so that a saved run can be bound again."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
