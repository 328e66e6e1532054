"""What is learnt: the contract of a task.

    records ──encode_all──> Encoded …     what the model reads and what it learns of it
    records ──measure──> ExampleScore …   per-record sufficient statistics, before and after
    statistics ──Metric──> figure         a function of *sums*, so that a bootstrap resamples rows

A task is bound to a tokenizer once (`bind`); its option model is importable without torch.
It knows no file, recipe, technique or loop. What several tasks are made of is in `tasks/parts/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tunesmith.errors import DataError, UnlearnableError

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model

Sums = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Metric:
    """A figure made of sums of per-record statistics.

    `compute` gets, for each name in `statistics`, an array of sums of any shape, and returns an
    array of the same shape: one call serves the point estimate and all bootstrap resamples. A
    record that lacks one of the statistics has no part in the metric. `generated` says that it
    needs real generation, and so is measured on the first few records only.

    `assumed_sd` is the standard deviation of one record's paired difference that is assumed before
    any model has run, and `assumption` says in words where it comes from; None where nothing can
    be assumed.
    """

    name: str
    statistics: tuple[str, ...]
    compute: Callable[[Sums], NDArray[np.float64]]
    description: str
    higher_is_better: bool = True
    unit: str = ""
    generated: bool = False
    assumed_sd: float | None = None
    assumption: str = ""

    @classmethod
    def mean(
        cls, name: str, description: str, *, of: str = "", over: str = "count", **more: Any
    ) -> Metric:
        """Return the metric that is one sum divided by another.

        Args:
            of: the statistic that is summed; by default that of the metric's name.
            over: the statistic that says of how many.
            more: further fields.
        """
        what = of or name
        return cls(name, (what, over), lambda sums: sums[what] / sums[over], description, **more)


@dataclass(frozen=True)
class ExampleScore:
    """What one test record got: its statistics by name, and what the model answered, if it did.

    A statistic that was not measured for this record (generation on a subset) is absent.
    """

    index: int
    statistics: dict[str, float]
    output: str | None = None


@dataclass(frozen=True)
class Span:
    """A part of an input that a model points at: from character `start` to before `end`."""

    start: int
    end: int
    text: str
    label: str
    probability: float


@dataclass(frozen=True)
class Ranked:
    """A text that was put in order: its place in the input, and how relevant it is (0 to 1)."""

    place: int
    text: str
    relevance: float


@dataclass(frozen=True)
class Prediction:
    """What a model says to one input: a text or a class, with the probability of each class.

    `spans` are the parts of the input that it points at, where the task is to find them; `vector`
    is that of the input, where the task is to make one; `score` is a number, where that is asked
    for; `ranking` are the texts of the input in their order, the most relevant first.
    """

    text: str
    probabilities: dict[str, float] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    vector: tuple[float, ...] = ()
    score: float | None = None
    ranking: tuple[Ranked, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """What generation starts from: token ids, the ids on which it stops, and the most new ones."""

    ids: list[int]
    stop_ids: tuple[int, ...]
    max_new_tokens: int


class Task(ABC):
    """Something to learn; `name` is set by the registry."""

    name: ClassVar[str]
    Record: ClassVar[type[BaseModel]]
    head: ClassVar[str]
    """What the model is loaded with: a name of `models.heads.HEADS`."""
    kinds: ClassVar[frozenset[str]]
    """Kinds of model that can learn it: `decoder`, `encoder`, `encoder-decoder`."""
    objective: str
    """What goes down, unless the recipe names another; may depend on what `study` found."""
    primary: str
    """The metric that decides, unless the recipe names another; likewise."""
    varies: ClassVar[bool] = False
    """Each epoch sees other forms of an example; see `seen`."""

    class Options(BaseModel):
        """No options."""

        model_config = ConfigDict(extra="forbid")

    def __init__(self, options: BaseModel | None = None) -> None:
        self.options: Any = options or self.Options()

    def study(self, records: Sequence[Any]) -> None:  # noqa: B027 - most tasks need no look
        """Learn from the training records what must be known before loading (class names).

        Raises:
            DataError: the records cannot be learnt from (one class only).
        """

    def head_for(self, kind: str) -> str:
        """Return what a model of this kind is loaded with: a name of `models.heads.HEADS`."""
        return self.head

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in order of their index; empty where the task has none."""
        return ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the head says, in order of their index: the classes, where it has any."""
        return self.labels

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens on which what was learnt ends; empty where nothing is generated."""
        return ()

    @property
    def chat_template(self) -> str | None:
        """What is saved with the model as its chat template; None: the model keeps its own."""
        return None

    @abstractmethod
    def bind(self, model: Model) -> None:
        """Take the tokenizer and the context length of `model`; called once, before `encode`."""

    def remarks(self) -> list[str]:
        """Return what a user should know of how this model is taught, a sentence each."""
        return []

    def lookalikes(self, record: Any) -> Collection[str]:
        """Return the texts of control tokens that are said in a record, and stay plain text."""
        return ()

    def check_saved(self, folder: Path, records: Sequence[Any]) -> None:  # noqa: B027
        """Check that who loads what was saved is led to ask it as it was taught.

        Args:
            folder: holds the saved model with its tokenizer.
            records: to try it on.

        Raises:
            RunError: it is not so.
        """

    def check_held_out(self, part: str, records: Sequence[Any]) -> None:  # noqa: B027
        """Refuse a part of which this task's metrics would say nothing.

        Args:
            part: `test` or `validation`.

        Raises:
            DataError: it is such a part.
        """

    @abstractmethod
    def encode(self, record: Any) -> Encoded:
        """Encode one record, whole or with what did not fit named in `Encoded.cut`.

        Raises:
            DataError: the record cannot be encoded (an unknown class).
            UnlearnableError: nothing of it is learnt.
        """

    def pieces(self, record: Any) -> list[Encoded]:
        """Encode one record as the examples that are trained on and measured, in order.

        One for most tasks. A task that cuts a long record into several gives all of them, so that
        no text is lost, with `Encoded.continues` on all but the first.
        """
        return [self.encode(record)]

    def encode_all(self, records: Sequence[Any], origins: Sequence[str] = ()) -> list[Encoded]:
        """Encode records into the examples that training and `measure` take.

        Args:
            origins: where each record stands (`train.jsonl:17`), for messages.

        Raises:
            DataError: of the first record that cannot be encoded, naming it; UnlearnableError
                where nothing of it is learnt.
        """
        examples: list[Encoded] = []
        for index, record in enumerate(records):
            try:
                examples += self.pieces(record)
            except DataError as error:
                origin = origins[index] if origins else f"record {index + 1}"
                where = f"{origin}: {error.where}" if error.where else origin
                kind = UnlearnableError if isinstance(error, UnlearnableError) else DataError
                raise kind(error.what, where=where, fix=error.fix) from None
        return examples

    def seen(self, example: Encoded, seed: int, epoch: int) -> Encoded:
        """Return what an example is in an epoch of training, where the task `varies` it.

        It follows from these three alone, so that a resumed run sees the same.
        """
        return example

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
        tokens_per_batch: int = 4096,
    ) -> list[ExampleScore]:
        """Score every record with the weights as they are now; one row per record, in order.

        Args:
            records: the raw records; `examples` are what `encode_all` made of them.
            generate: on how many records (the first so many) to measure by real generation.
            tokens_per_batch: most tokens of one evaluation batch.
        """

    @abstractmethod
    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Answer inputs of a user: texts, or for `instruct` also lists of chat messages.

        Raises:
            DataError: an input is not of a kind that this task reads, or does not fit.
        """

    def prompt(self, given: Any) -> Prompt | None:
        """Return what generation starts from for one input; None for a task that generates nothing.

        Raises:
            DataError: the input is not of a kind that this task reads, or does not fit.
        """
        return None

    @abstractmethod
    def present(self, record: Any) -> tuple[str, str]:
        """Return the input and the right answer of a record, as text for people to read."""

    def state(self) -> dict[str, Any]:
        """Return what `study` found, as JSON data, so that a saved run can be bound again."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - as `study`
        """Take back what `state` returned."""
