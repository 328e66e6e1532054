"""Distillation of classes: a student learns how likely a tuned teacher finds each class.

    (1 - weight) * cross-entropy  +  weight * t^2 * KL(teacher || student) at temperature t

(Hinton, Vinyals & Dean, 2015, arXiv:1503.02531.) Teacher and student have the same classes and one
tokenizer. It costs the teacher's weights in memory, and one of its forward passes a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from tunesmith.objectives.base import FurtherTerm, Objective, Pooled, Reader, Taught, Term
from tunesmith.objectives.classes import Classes
from tunesmith.objectives.distillation import TeacherOptions
from tunesmith.registry import OBJECTIVES

if TYPE_CHECKING:
    from tunesmith.data.batch import Batch


@OBJECTIVES.register("class_distillation")
class ClassDistillation(Classes, Taught):
    """How likely a tuned teacher finds each class, beside the right one."""

    readout = Pooled

    class Options(TeacherOptions):
        """Who teaches, and how much it counts."""

    def __init__(self, options: BaseModel | None = None) -> None:
        Objective.__init__(self, options)

    def loss(self, readout: Pooled, batch: Batch) -> dict[str, Term]:
        """Return the part of the right classes; the teacher's is a further term."""
        (term,) = super().loss(readout, batch).values()
        return {"nll": Term(term.total, term.count, 1.0 - self.options.weight)}

    def refuses(self, teacher: Reader, student: Reader) -> str | None:
        """Teacher and student must name the same classes, in the same order."""
        named = [_classes(engine) for engine in (teacher, student)]
        if named[0] != named[1]:
            return f"its classes are {', '.join(named[0])}, the student's {', '.join(named[1])}"
        return None

    def learn_from(self, teacher: Reader) -> None:
        """Add what the teacher says to the loss."""
        self.further = (ClassDivergence(teacher, self.options.weight, self.options.temperature),)


class ClassDivergence(FurtherTerm):
    """The divergence from what a teacher says of each document."""

    name = "kl_to_teacher"
    readout = Pooled

    def __init__(self, teacher: Reader, weight: float, temperature: float) -> None:
        self._teacher = teacher
        self._weight = weight * temperature**2
        self._temperature = temperature

    def before(self, batch: Batch) -> Pooled:
        """Return the teacher's logits."""
        found: Pooled = self._teacher.forward(batch, Pooled)
        return found

    def count(self, batch: Batch) -> float:
        """Return the number of documents."""
        return float(len(batch))

    def loss(self, readout: Pooled, batch: Batch, before: Pooled) -> Term:
        """Return the summed divergence over the documents."""
        from torch.nn.functional import kl_div, log_softmax

        student, teacher = (
            log_softmax(outputs.outputs_BC / self._temperature, -1) for outputs in (readout, before)
        )
        total = kl_div(student, teacher, reduction="sum", log_target=True)
        return Term(total, float(len(batch)), self._weight)


def _classes(reader: Reader) -> list[str]:
    named = reader.model.module.config.id2label
    return [str(named[index]) for index in sorted(named)]
