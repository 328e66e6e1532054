"""What number goes down: the contract of an objective, and what it may read from the engine.

    engine ──readout──> objective.loss ──{term: Term}──> engine (divides, backward)

**Sums and counts, never means.** A term's total over an optimiser step is divided by that term's
own count over the whole step, whatever the micro-batches, the packing or the ranks. The counts
are known from the batches alone (`counts`), before the first forward.

Shapes: N learnt tokens of a batch, B documents, C classes, T tokens, D model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.data.batch import Batch
    from tunesmith.kernels.divergence import OutputRows

R = TypeVar("R")


@dataclass(frozen=True)
class TokenLogProbs:
    """Log-probability of each learnt token.

    `rows_N` are the positions (into the stream's T) whose next token is learnt, in order;
    `logprobs_N` is float32, natural logarithm; `correct_N` says whether the learnt token was also
    the most likely one. `total` is minus the weighted sum of the log-probabilities where the
    objective gave the weights beforehand: then it alone carries the gradient.
    """

    logprobs_N: Tensor
    rows_N: Tensor
    correct_N: Tensor
    total: Tensor | None = None


@dataclass(frozen=True)
class Pooled:
    """What the head says of each document: `outputs_BC`, float32 (logits for classes)."""

    outputs_BC: Tensor


@dataclass(frozen=True)
class Vectors:
    """One vector of each document of each of S streams, in the streams' order: `vectors_SBD`."""

    vectors_SBD: Tensor


@dataclass(frozen=True)
class PerToken:
    """What the head says of each token: `outputs_TC`, float32 (logits for classes)."""

    outputs_TC: Tensor


@dataclass(frozen=True)
class Features:
    """What the head reads of each document: `features_BD`, one vector of each."""

    features_BD: Tensor


@dataclass(frozen=True)
class Hidden:
    """The body's last hidden state, of every token: `hidden_TD`."""

    hidden_TD: Tensor


@dataclass(frozen=True)
class TokenStates:
    """What the output layer reads at each learnt token, and the layer itself.

    For losses over whole distributions: `output` makes N rows of logits, whose positions (into the
    stream's T) are `rows_N`. They are made chunk by chunk, by whoever needs them.
    """

    output: OutputRows
    rows_N: Tensor


@dataclass(frozen=True)
class Term:
    """One addend of the loss: its sum over the batch, the count it is divided by, its weight."""

    total: Tensor
    count: float
    weight: float = 1.0


class FurtherTerm(ABC):
    """An addend of the loss beside the objective's own, made of the same forward pass."""

    name: str
    readout: type[Any]

    def before(self, batch: Batch) -> Any:
        """Compute what is needed of other weights, before the pass of those that learn."""
        return None

    @abstractmethod
    def count(self, batch: Batch) -> float:
        """Return what the sum will be divided by, over this batch; needs no forward."""

    @abstractmethod
    def loss(self, readout: Any, batch: Batch, before: Any) -> Term:
        """Return the term over this batch, as a sum.

        Args:
            before: what `before` returned for this batch.
        """


class Objective(ABC):
    """A loss under which a model learns; `name` is set by the registry."""

    name: ClassVar[str]
    readout: ClassVar[type[Any]]
    target: ClassVar[str] = ""
    """What of an example is learnt, in words: what another task gives under the same readout would
    be taken for it. Empty: whatever the task gives."""
    whole_step: ClassVar[bool] = False
    """It compares the records of a step with each other, so that a step is one micro-batch."""

    class Options(BaseModel):
        """No options."""

        model_config = ConfigDict(extra="forbid")

    def __init__(self, options: BaseModel | None = None) -> None:
        self.options: Any = options or self.Options()
        self.further: tuple[FurtherTerm, ...] = ()

    @property
    def compares_records(self) -> bool:
        """Whether records of a step, all or those of a task, have to be in one pass."""
        return self.whole_step

    def reads(self, batch: Batch) -> type[Any]:
        """Return which readout `loss` wants of this batch."""
        return self.readout

    def all_counts(self, batch: Batch) -> dict[str, float]:
        """Return `counts`, and those of the further terms."""
        return self.counts(batch) | {term.name: term.count(batch) for term in self.further}

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, float]:
        """Return what each term will be divided by, summed over this batch; needs no forward."""

    def token_weights(self, batch: Batch) -> Tensor | None:
        """Return what each learnt token's log-probability is multiplied by, `[N]`, or None.

        Where it is known before the forward, the loss must be minus the sum of the products: the
        engine then computes loss and gradient of the output layer in one pass.
        """
        return None

    @abstractmethod
    def loss(self, readout: Any, batch: Batch) -> Mapping[str, Term]:
        """Return the terms of the loss over this batch, as sums."""


class ByMember(Objective):
    """The objectives of several tasks, each of which learns from the batches of its own.

    The terms of a task are called `task/term`. Each is divided by its own count and weighs as much
    as the task's share of the records of the step: the loss is that of a record drawn from the
    mixture, and one task alone has the loss that it has without this.
    """

    name = "multitask"
    readout = Hidden

    def __init__(self, members: Mapping[str, Objective]) -> None:
        super().__init__()
        self.members = dict(members)

    @property
    def compares_records(self) -> bool:
        """Whether those of a task are compared with each other."""
        return any(member.compares_records for member in self.members.values())

    def reads(self, batch: Batch) -> type[Any]:
        """Return what the batch's own objective reads."""
        return self._of(batch).reads(batch)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the counts of the batch's own objective."""
        counts = self._of(batch).counts(batch)
        return {f"{batch.member}/{term}": count for term, count in counts.items()}

    def token_weights(self, batch: Batch) -> Tensor | None:
        """Return those of the batch's own objective."""
        return self._of(batch).token_weights(batch)

    def loss(self, readout: Any, batch: Batch) -> dict[str, Term]:
        """Return the terms of the batch's own objective, by the task's share of the step."""
        return {
            f"{batch.member}/{name}": replace(term, weight=term.weight * batch.share)
            for name, term in self._of(batch).loss(readout, batch).items()
        }

    def _of(self, batch: Batch) -> Objective:
        return self.members[batch.member]


class Reader(Protocol):
    """A model that reads batches without learning from them: an engine, seen from here."""

    @property
    def model(self) -> Any:
        """The loaded model."""

    def forward(self, batch: Batch, readout: type[R]) -> R:
        """Return a readout of the batch, without gradients."""


class Taught(ABC):
    """What an objective has that learns from another model, named by its option `teacher`."""

    options: Any

    @abstractmethod
    def refuses(self, teacher: Reader, student: Reader) -> str | None:
        """Return why this model cannot teach that one, or None where it can."""

    @abstractmethod
    def learn_from(self, teacher: Reader) -> None:
        """Add what the teacher says to the loss."""
