"""What is learnt: the contract of a task.

    records ──encode_all──> Encoded …     what the model reads and what it learns of it
    records ──measure──> ExampleScore …   per-record sufficient statistics, before and after
    statistics ──Metric──> figure         a function of *sums*, so that a bootstrap resamples rows

A task is bound to a tokenizer once (`bind`); its option model is importable without torch.
It knows no file, recipe, technique or loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tunesmith.errors import DataError, RecipeError, UnlearnableError
from tunesmith.models.reading import around as around

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

    @abstractmethod
    def bind(self, model: Model) -> None:
        """Take the tokenizer and the context length of `model`; called once, before `encode`."""

    def remarks(self) -> list[str]:
        """Return what a user should know of how this model is taught, a sentence each."""
        return []

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


def listed_once(labels: Sequence[str] | None, noun: str) -> tuple[str, ...]:
    """Return the option `labels`; empty where it is not given.

    Raises:
        RecipeError: one of them stands twice.
    """
    repeated = [label for label, times in Counter(labels or ()).items() if times > 1]
    if repeated:
        raise RecipeError(
            f"The {noun} {repeated[0]!r} is listed twice.",
            where="task.labels",
            fix=f"List each {noun} once.",
        )
    return tuple(labels or ())


def check_listed(found: set[str], labels: Sequence[str], noun: str) -> None:
    """Raise DataError where the training records have a label that the option does not list."""
    unknown = found - set(labels)
    if unknown:
        raise DataError(
            f"The training records have the {noun} {min(unknown)!r}, which `task.labels` does"
            " not list.",
            fix="Add it to `task.labels`, or leave that option out.",
        )


def owners(examples: Sequence[Encoded]) -> list[int]:
    """Return for each example the index of the record that it is a piece of."""
    owner, found = -1, []
    for example in examples:
        owner += not example.continues
        found.append(owner)
    return found


def token_scores(
    engine: Engine,
    examples: Sequence[Encoded],
    *,
    tokens_per_batch: int,
    console: Console,
) -> list[dict[str, float]]:
    """Measure by teacher forcing how likely the learnt tokens of each example are.

    Returns:
        For each example: `log_likelihood` (sum in nats), `tokens` (learnt ones) and `correct` (on
        how many the most likely token was the right one, *given the right ones before it*).
    """
    import torch

    from tunesmith.engine.batching import batches
    from tunesmith.objectives.base import TokenLogProbs

    scores: list[dict[str, float]] = [{} for _ in examples]
    with console.progress("measure", len(examples)) as bar:
        for batch in batches(examples, tokens_per_batch, packed=engine.packed):
            readout = engine.forward(batch, TokenLogProbs)
            rows_N = readout.rows_N.cpu()
            ends = batch.text.cu_seqlens[1:].cpu().long()
            document_N = torch.searchsorted(ends, rows_N, right=True)
            columns = {
                "log_likelihood": readout.logprobs_N,
                "tokens": torch.ones(len(rows_N)),
                "correct": readout.correct_N,
            }
            for name, value_N in columns.items():
                if value_N is None:
                    continue
                sums = torch.zeros(len(batch), dtype=torch.float64)
                sums.index_add_(0, document_N, value_N.cpu().double())
                for index, total in zip(batch.indices, sums.tolist(), strict=True):
                    scores[index][name] = total
            bar.advance(len(batch))
    return scores


def answer_prompts(
    engine: Engine, prompts: Sequence[Prompt], *, console: Console, beams: int = 1
) -> list[tuple[str, bool]]:
    """Continue each prompt; return the likeliest text, and whether it ended by itself.

    A text that did not end stopped at `max_new_tokens`.

    Args:
        beams: beginnings that are pursued side by side; 1: always the most likely token.
    """
    from tunesmith.engine.generation import Sampling

    found: list[tuple[str, bool]] = [("", False)] * len(prompts)
    alike: dict[Sampling, list[int]] = {}
    for index, prompt in enumerate(prompts):
        sampling = Sampling(prompt.max_new_tokens, prompt.stop_ids, beams=beams)
        alike.setdefault(sampling, []).append(index)
    with console.progress("generate", len(prompts)) as bar:
        for sampling, members in alike.items():
            ids = [prompts[i].ids for i in members]
            answers = engine.generate(ids, sampling, ended=bar.advance)
            for index, answer in zip(members, answers, strict=True):
                text = engine.model.tokenizer.decode(answer.ids, skip_special_tokens=True)
                found[index] = text, answer.stopped
    return found


def prompts_of(make: Callable[[Any], Prompt], inputs: Sequence[Any]) -> list[Prompt]:
    """Make the prompt of each input.

    Raises:
        DataError: of the first input that cannot be one, with its number.
    """
    prompts = []
    for number, given in enumerate(inputs, start=1):
        try:
            prompts.append(make(given))
        except DataError as error:
            raise DataError(error.what, where=f"input {number}", fix=error.fix) from None
    return prompts


def check_room(prompt: Prompt, context_length: int) -> None:
    """Check that a prompt and its answer fit into the model's context.

    Raises:
        DataError: they do not.
    """
    if len(prompt.ids) + prompt.max_new_tokens > context_length:
        raise DataError(
            f"The prompt has {len(prompt.ids)} tokens; with {prompt.max_new_tokens} for the answer"
            f" that is more than the model's context of {context_length}.",
            fix="Shorten it, or lower `task.max_new_tokens`.",
        )


def token_metrics() -> list[Metric]:
    """Return the metrics of teacher-forced text: log-likelihood a token, and perplexity."""
    return [
        Metric(
            "log_likelihood",
            ("log_likelihood", "tokens"),
            lambda sums: sums["log_likelihood"] / sums["tokens"],
            "how likely the held-out text is to the model, given the right text before each token",
            unit="nats per token",
            assumed_sd=0.3,
            assumption="records' changes differ by 0.3 nats per token (standard deviation)",
        ),
        Metric(
            "perplexity",
            ("log_likelihood", "tokens"),
            lambda sums: np.exp(-sums["log_likelihood"] / sums["tokens"]),
            "among how many equally likely tokens the model hesitates, on average",
            higher_is_better=False,
        ),
    ]
