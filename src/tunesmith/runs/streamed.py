"""A run whose records are streamed: what is looked at of each window, and what is said of all.

    window ──check, encode──> Laid ──> StreamedPlan ──> the loop

Before training only the first window is known: format, what is learnt, memory and time are told
from it. Each further one is checked when its turn comes, and compared with the test records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.batch import Batch
from tunesmith.data.dataset import Dataset
from tunesmith.data.plan import Counts
from tunesmith.data.records import content_key
from tunesmith.data.splits import WORTHLESS_OVERLAP
from tunesmith.data.stored import lengths_of
from tunesmith.data.streamed_plan import Laid, StreamedPlan
from tunesmith.data.streaming import Position, Stream
from tunesmith.errors import DataError, RecipeError
from tunesmith.objectives.base import Objective
from tunesmith.quality.targets import trained_tokens
from tunesmith.recipes.schema import Recipe
from tunesmith.runs.encoding import encode_some
from tunesmith.runs.teacher import Teacher
from tunesmith.tasks.base import Task
from tunesmith.techniques.base import Technique


@dataclass(frozen=True)
class Streamed:
    """The stream of a run, and what its records are compared with.

    Attributes:
        recipe: what is asked for.
        tested: what the test records say, by `content_key`, each with a number.
        held: likewise, with the validation records.
        teacher: who must be able to read them, where there is one.
    """

    stream: Stream
    task: Task
    drop: bool
    recipe: Recipe
    tested: Mapping[str, int]
    held: frozenset[str]
    teacher: Teacher | None = None

    def plan(
        self,
        count: Callable[[Batch], Counts],
        objective: Objective,
        state: Mapping[str, Any] | None,
        first: int,
    ) -> StreamedPlan:
        """Return the steps of training from number `first` on.

        Args:
            state: as the step before it carried it.
        """
        training = self.recipe.training
        assert training.max_steps is not None  # the recipe would have been refused
        return StreamedPlan(
            self.lay,
            count,
            batch_size=training.batch_size,
            tokens_per_batch=training.tokens_per_batch,
            max_steps=training.max_steps,
            seed=training.seed,
            one_pass=_one_pass(objective, in_backward=training.optimizer_in_backward),
            judge=self.judge,
            state=state,
            first=first,
        )

    def lay(self, position: Position) -> Laid:
        """Read, check and encode the window at a position.

        Raises:
            DataError: a record cannot be read, encoded or learnt.
            RecipeError: the teacher cannot read one.
        """
        window = self.stream.window(position)
        examples, lost = encode_some(
            self.task, window.data, range(len(window.data)), drop=self.drop
        )
        seed = self.recipe.training.seed
        if self.teacher is not None:
            lost_places = {place for place, _ in lost}
            kept = [o for place, o in enumerate(window.data.origins) if place not in lost_places]
            self.teacher.check(examples, kept)
        leaked = [] if position.passes else self._leaked(window.data)
        return Laid(
            [self.task.seen(example, seed, position.passes) for example in examples],
            window.after,
            {
                "records": len(window.data) - len(lost),
                "examples": len(examples),
                "tokens": sum(lengths_of(examples)),
                "trained_tokens": sum(trained_tokens(example) for example in examples),
                "dropped": len(window.data.dropped) + len(lost),
                "leaked": len(leaked),
            },
            frozenset(self.tested[key] for key in leaked if key in self.tested),
        )

    def judge(self, met: frozenset[int]) -> None:
        """Refuse to go on where a verdict on the test records would say nothing.

        Args:
            met: the numbers of those that have stood among the streamed records so far.

        Raises:
            DataError: they are most of the test set.
        """
        if len(met) >= WORTHLESS_OVERLAP * len(self.tested):
            raise DataError(
                f"{len(met)} of {len(self.tested)} test records have stood among the"
                " streamed ones so far: a verdict on them would say nothing.",
                where="data.test",
                fix="Give test records of their own.",
            )

    def _leaked(self, data: Dataset) -> list[str]:
        """What those records of a window say that stand in the test or validation set."""
        return [key for key in map(content_key, data.records) if key in self.held]

    def fingerprint(self) -> str:
        """Return a digest of the names and sizes of all shards."""
        digest = hashlib.sha256()
        for shard in self.stream.shards:
            digest.update(f"{Path(shard.name).name} {shard.size}\n".encode())
        return digest.hexdigest()

    def introduction(self) -> str:
        """Say where the records come from."""
        count = len(self.stream.shards)
        return (
            f"Records are streamed from {count} shard{'s' * (count != 1)} in windows of"
            f" {self.recipe.data.window:,}; what is said of them here is told from the first."
        )

    def describe(self, state: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return what was read, as the summary says it of a part of the data.

        Args:
            state: of the last step.
        """
        read = state["read"] if state else {}
        counted = ("records", "examples", "tokens", "trained_tokens")
        files = ", ".join(dict.fromkeys(Path(shard.source).name for shard in self.stream.shards))
        return {"file": files, **{name: read.get(name, 0) for name in counted}}

    def warning(self, state: Mapping[str, Any] | None) -> str | None:
        """Say in a sentence which test records stand among those that were learnt from, if any."""
        leaked = state["read"].get("leaked", 0) if state else 0
        if not leaked:
            return None
        return f"{leaked} streamed records also stand in the test or validation set."


def stream_of(
    recipe: Recipe, task: Task, technique: Technique, held: Sequence[Dataset]
) -> Streamed | None:
    """Return the stream that a recipe asks for; None where its records are read at once.

    Args:
        held: the test records, then the validation records where there are any.

    Raises:
        RecipeError: the technique needs all records at once.
    """
    if not recipe.data.streaming:
        return None
    if technique.solver:
        raise RecipeError(
            f"The technique {technique.name!r} solves for all records at once, and a stream does"
            " not give them at once.",
            where="data.streaming",
            fix="Leave it out, or choose lora, layers or full.",
        )
    tested, *others = (dict.fromkeys(map(content_key, part.records)) for part in held)
    stream = Stream(type(task).Record, recipe.data)
    drop = recipe.data.unlearnable == "drop"
    numbered = {key: number for number, key in enumerate(tested)}
    return Streamed(stream, task, drop, recipe, numbered, frozenset(tested).union(*others))


def _one_pass(objective: Objective, *, in_backward: bool) -> str | None:
    if objective.whole_step:
        return f"the objective {objective.name!r} compares all records of a step"
    return "optimizer_in_backward needs every step to be one pass" if in_backward else None
