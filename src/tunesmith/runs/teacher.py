"""The teacher of an objective that distils one: loaded, checked, and handed to the objective.

    objective.options.teacher ──teach──> Teacher; its engine computes as the student's does

A teacher is the result of a run, or a model by name. It must have the student's tokenizer, since it
reads the student's tokens, and room for all that the student learns: new records, replayed ones,
and those of a stream, window by window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.console import Console
from tunesmith.data.batch import Encoded
from tunesmith.data.frame import around
from tunesmith.data.stored import lengths_of
from tunesmith.engine.engine import Engine
from tunesmith.errors import RecipeError
from tunesmith.models.fingerprint import file_digest
from tunesmith.models.load import load_model, load_result
from tunesmith.models.model import Model
from tunesmith.models.resolve import resolve
from tunesmith.objectives.base import Objective, Taught
from tunesmith.tasks.parts.pieces import owners

_WHERE = "objective.teacher"
_SHOWN = 12
"""Tokens of an example by which it is told from others."""


@dataclass(frozen=True)
class Teacher:
    """What a run must know of its teacher.

    Attributes:
        name: as the recipe says it.
        context_length: how many tokens of a text it reads.
        nbytes: that it takes of an accelerator's memory; on a processor they are among those of the
            process.
        tokenizer: the student's, which is its own too.
    """

    name: str
    context_length: int
    nbytes: int
    tokenizer: Any

    def check(self, examples: Sequence[Encoded], origins: Sequence[str] = ()) -> None:
        """Refuse examples that it cannot read; each of their texts must fit.

        Args:
            origins: where the records stand that the examples are made of; without them an example
                is named by how it begins.

        Raises:
            RecipeError: one is too long; names it.
        """
        for place, whole in enumerate(lengths_of(examples)):
            if whole <= self.context_length:  # of all its texts together
                continue
            streams = examples[place].streams.values()
            longest = max(streams, key=lambda stream: len(stream.ids))
            if len(longest.ids) > self.context_length:
                record = origins[owners(examples)[place]] if origins else self._begins(longest.ids)
                raise _unsuited(
                    self.name,
                    f"it reads {self.context_length} tokens, and {record} has {len(longest.ids)}",
                )

    def _begins(self, ids: Sequence[int]) -> str:
        shown = self.tokenizer.decode(ids[:_SHOWN], skip_special_tokens=True).strip()
        return f"an old record, which begins {shown!r},"


def teach(objective: Objective, student: Engine, console: Console) -> Teacher | None:
    """Load the objective's teacher, if it has one, and let it learn from it.

    Raises:
        RecipeError: the teacher does not suit the student; says why.
        ModelError: it cannot be loaded.
    """
    if not isinstance(objective, Taught):
        return None
    name = objective.options.teacher
    model = _load(name, student, console)
    reason = _other_tokenizer(model, student.model)
    if reason is not None:
        raise _unsuited(name, reason)
    model.module.to(student.device)
    engine = Engine(model, dtype=student.dtype, packing=student.packed)
    reason = objective.refuses(engine, student)
    if reason is not None:
        raise _unsuited(name, reason)
    objective.learn_from(engine)
    held = sum(parameter.nbytes for parameter in model.module.parameters())
    on_gpu = student.device.type == "cuda"
    return Teacher(name, model.anatomy.context_length, held if on_gpu else 0, model.tokenizer)


def fingerprint(objective: Objective) -> dict[str, str]:
    """Return the SHA-256 of the teacher's weights, as an input of the run; empty without one."""
    if not isinstance(objective, Taught):
        return {}
    folder = Path(objective.options.teacher) / "model"
    if not folder.is_dir():
        return {"teacher": resolve(objective.options.teacher).fingerprint}
    digests = [file_digest(file) for file in sorted(folder.glob("*.safetensors"))]
    return {"teacher": hashlib.sha256("".join(digests).encode()).hexdigest()}


def _load(name: str, student: Engine, console: Console) -> Model:
    head = student.model.head
    if (Path(name) / "record.json").exists():
        folder = Path(name) / "model"
        if not folder.is_dir():
            raise _unsuited(name, "this run has not finished")
        model = load_result(folder, dtype=student.dtype)
        if model.head != head:
            raise _unsuited(name, f"it learnt {model.head}, the student learns {head}")
        return model
    if head not in ("causal_lm", "seq2seq_lm"):
        raise _unsuited(name, "only the result of a run has a head that can teach this task")
    return load_model(resolve(name, console=console), head=head, dtype=student.dtype)


def _other_tokenizer(teacher: Model, student: Model) -> str | None:
    """Say in which way the tokenizers differ; None where they are the same."""
    theirs: Mapping[str, Any]
    ours, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    differing = [token for token, number in ours.items() if theirs.get(token) != number]
    if differing or len(ours) != len(theirs):
        token = repr(differing[0]) if differing else "a token that the student's lacks"
        return f"its tokenizer is another one than the student's: they differ in {token}"
    if around(student.tokenizer) != around(teacher.tokenizer):
        return "its tokenizer puts other tokens around a text than the student's"
    return None


def _unsuited(name: str, reason: str) -> RecipeError:
    return RecipeError(
        f"{name} cannot teach: {reason}.",
        where=_WHERE,
        fix="Name a run or a model of the student's family, or leave the objective out.",
    )
