"""Distillation: a student learns what a tuned teacher says of each token, not only the right one.

    (1 - weight) * likelihood  +  weight * t^2 * KL(teacher || student) at temperature t
                               +  hidden * (1 - cosine of the last hidden states)

(Hinton, Vinyals & Dean, 2015, arXiv:1503.02531; the cosine: Sanh et al., 2019, arXiv:1910.01108.)
The teacher reads the same tokens, so both must have one tokenizer; its vocabulary may be padded to
another size. Of neither is a whole table of logits held: both are made for a few rows at a time. It
costs the teacher's weights in memory, and one of its forward passes a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.objectives.base import FurtherTerm, Objective, Reader, Taught, Term, TokenLogProbs
from tunesmith.objectives.base import TokenStates as States
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import OBJECTIVES

if TYPE_CHECKING:
    from tunesmith.data.batch import Batch
    from tunesmith.kernels.divergence import OutputRows


class TeacherOptions(BaseModel):
    """Who teaches, and how much it counts."""

    model_config = ConfigDict(extra="forbid")

    teacher: str = Field(
        min_length=1,
        description="the run whose result teaches (its folder; relative paths start at the "
        "recipe's folder), or a model of the same tokenizer",
    )
    temperature: float = Field(
        default=2.0,
        gt=0,
        le=100,
        description="logits of both are divided by it: above 1 unlikely answers count more",
    )
    weight: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="share of the loss that is the teacher's; the rest is that of what is right",
    )


@OBJECTIVES.register("distillation")
class Distillation(TokenLikelihood, Taught):
    """What a tuned teacher says of each token, beside the right one."""

    readout = TokenLogProbs

    class Options(TeacherOptions):
        """Who teaches, and how much it counts."""

        hidden: float = Field(
            default=0.0,
            ge=0,
            le=100,
            description="weight of the distance (1 - cosine) between the last hidden states of "
            "teacher and student, whose widths must then be equal",
        )

    def __init__(self, options: BaseModel | None = None) -> None:
        Objective.__init__(self, options)

    def loss(self, readout: TokenLogProbs, batch: Batch) -> dict[str, Term]:
        """Return the likelihood's part; the teacher's is a further term."""
        (term,) = super().loss(readout, batch).values()
        return {"nll": Term(term.total, term.count, 1.0 - self.options.weight)}

    def refuses(self, teacher: Reader, student: Reader) -> str | None:
        """Hidden states are compared where they are of one width."""
        sizes = [engine.model.anatomy.hidden_size for engine in (teacher, student)]
        if self.options.hidden and sizes[0] != sizes[1]:
            return (
                f"its hidden states are {sizes[0]} wide, the student's {sizes[1]}; leave out "
                "`hidden`"
            )
        return None

    def learn_from(self, teacher: Reader) -> None:
        """Add what the teacher says to the loss."""

        def states(batch: Batch) -> OutputRows:
            found: States = teacher.forward(batch, States)
            return found.output

        temperature = self.options.temperature
        weight = self.options.weight * temperature**2
        self.further = (
            TokenDivergence("kl_to_teacher", states, weight, temperature, self.options.hidden),
        )


class TokenDivergence(FurtherTerm):
    """The divergence from what another model says of each learnt token.

    Args:
        states: gives the other's hidden states at the learnt tokens, and its output layer.
        hidden: weight of the distance of the hidden states, beside `weight`.
    """

    readout = States

    def __init__(
        self,
        name: str,
        states: Callable[[Batch], OutputRows],
        weight: float,
        temperature: float,
        hidden: float = 0.0,
    ) -> None:
        self.name = name
        self._states = states
        self._weight = weight
        self._temperature = temperature
        self._hidden = hidden

    def before(self, batch: Batch) -> OutputRows:
        """Return what the other model reads."""
        return self._states(batch)

    def count(self, batch: Batch) -> float:
        """Return the number of learnt tokens."""
        return float(len(batch.text.learnt()[0]))

    def loss(self, readout: States, batch: Batch, before: OutputRows) -> Term:
        """Return the summed divergence over the learnt tokens."""
        import torch
        from torch.nn.functional import cosine_similarity

        from tunesmith.kernels.divergence import linear_divergence

        ones_N = torch.ones(len(readout.rows_N), device=readout.rows_N.device)
        total = linear_divergence(readout.output, before, ones_N, temperature=self._temperature)
        if self._hidden:
            pair = (readout.output.hidden_ND.float(), before.hidden_ND.float())
            distance = (1.0 - cosine_similarity(*pair, dim=-1)).sum()
            total = total + distance * (self._hidden / self._weight)
        return Term(total, self.count(batch), self._weight)
