"""From a recipe to everything that a run needs in memory: data, task, model, technique, engine.

    Recipe ──prepare──> Prepared(task, technique, splits, examples, engine, objective, plan)

The same preparation serves `train`, `check` and the engine's door (`tunesmith.load`), so that what
is checked is what is trained. Nothing is written here but the model cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tunesmith.console import Console
from tunesmith.data.batch import Encoded
from tunesmith.data.dataset import Dataset
from tunesmith.data.mixed_plan import MixedPlan
from tunesmith.data.plan import Plan
from tunesmith.data.records import Dropped
from tunesmith.data.splits import Splits, load_splits
from tunesmith.data.stored import ChainedExamples
from tunesmith.data.streamed_plan import StreamedPlan
from tunesmith.engine.engine import Engine
from tunesmith.errors import RecipeError
from tunesmith.models.altered import surgery_of
from tunesmith.models.model import Model
from tunesmith.models.resolve import Resolved
from tunesmith.objectives.base import Objective
from tunesmith.quality.lookalikes import lookalike_sentence
from tunesmith.quality.targets import cut_sentence, find_targets
from tunesmith.recipes.schema import Recipe
from tunesmith.runs.build import build_engine
from tunesmith.runs.encoded_store import Store
from tunesmith.runs.encoding import Part, encode
from tunesmith.runs.members import (
    check_decides,
    make_objective,
    make_task,
    make_technique,
    selects,
)
from tunesmith.runs.memory_budget import fit_memory
from tunesmith.runs.multitask import (
    by_member,
    check_metrics,
    check_whole_steps,
    encode_members,
    mixed_plan,
    splits_of_members,
)
from tunesmith.runs.retain import Retention, check_replayed, make_retention
from tunesmith.runs.streamed import Streamed, stream_of
from tunesmith.runs.teacher import teach
from tunesmith.tasks.base import Task
from tunesmith.tasks.multitask import MultiTask
from tunesmith.tasks.parts.pieces import owners
from tunesmith.techniques.base import Technique
from tunesmith.training.checkpoints import Progress
from tunesmith.training.memory import MemoryEstimate

_SHOWN = 5


@dataclass
class Prepared:
    """What a run works with.

    Attributes:
        frozen_seconds: what it took to compute once what frozen layers give of the training
            records; 0 where that was kept before, or is not kept.
        streamed: where the training records are streamed; `train` is then the first window.
    """

    recipe: Recipe
    task: Task
    technique: Technique
    objective: Objective
    splits: Splits
    engine: Engine
    train: Part
    test: Part
    validation: Part | None
    streamed: Streamed | None = None
    warnings: list[str] = field(default_factory=list)
    retention: Retention = field(default_factory=Retention)
    memory: MemoryEstimate = field(init=False)
    frozen_seconds: float = field(init=False, default=0.0)

    @property
    def model(self) -> Model:
        """The loaded model."""
        return self.engine.model

    @cached_property
    def frozen_digest(self) -> str:
        """The SHA-256 of what lies below the first thing that learns."""
        return self.engine.frozen_digest()

    @property
    def dropped(self) -> list[Dropped]:
        """Records that were left out, as nothing of them would be learnt."""
        parts = [part for part in (self.train, self.validation, self.test) if part is not None]
        return [*self.splits.dropped, *(lost for part in parts for lost in part.dropped)]

    def steps(self, progress: Progress) -> Plan | StreamedPlan:
        """Return the steps of training, those of a stream from `progress` on."""
        plan = self.plan()
        if self.streamed is None:
            return plan
        return self.streamed.plan(plan.counts_of, self.objective, progress.position, progress.step)

    def plan(self) -> Plan:
        """Return the steps of training; of a stream, as if it were its first window."""
        training, old = self.recipe.training, self.retention.replayed
        if isinstance(self.task, MultiTask):
            return mixed_plan(self.task, self.train, self.objective.all_counts, training)
        return Plan(
            ChainedExamples(self.train.examples, old) if old else self.train.examples,
            self.objective.all_counts,
            batch_size=training.batch_size,
            tokens_per_batch=training.tokens_per_batch,
            epochs=training.epochs,
            max_steps=training.max_steps,
            seed=training.seed,
            seen=self.task.seen if self.task.varies else None,
        )


def prepare(
    recipe: Recipe,
    console: Console,
    state: Mapping[str, Any] | None = None,
    chosen: Mapping[str, Any] | None = None,
    written: Path | None = None,
    shape: Resolved | None = None,
) -> Prepared:
    """Load and check everything that `recipe` asks for.

    Args:
        state: what the task noted when the run began, where it is gone on with.
        chosen: likewise of the technique.
        written: the folder of the old texts that the model wrote then.
        shape: the model's configuration, to plan with where its weights are not here.

    Raises:
        RecipeError, DataError, ModelError: what is wrong, before anything was trained.
    """
    task = make_task(recipe)
    technique = make_technique(recipe, task)
    splits = _splits(recipe, task)
    if state is not None:
        task.load_state(state)
    if chosen is not None:
        technique.load_state(chosen)
    task.study(splits.train.records)
    objective = make_objective(recipe, task)
    check_decides(recipe, task, len(splits.test))
    held = [splits.test, *([splits.validation] if splits.validation else [])]
    streamed = stream_of(recipe, task, technique, held)
    drawn = _drawn(recipe, task, splits.train)
    engine = build_engine(recipe, task, technique, console, drawn, shape)
    train, test, validation = _encoded(recipe, task, splits, engine, console, streamed is not None)
    check_decides(recipe, task, len(test.data))
    task.check_held_out("test", test.data.records)
    if validation is not None:
        task.check_held_out("validation", validation.data.records)
    prepared = Prepared(
        recipe=recipe,
        task=task,
        technique=technique,
        objective=objective,
        splits=splits,
        engine=engine,
        train=train,
        test=test,
        validation=validation,
        streamed=streamed,
    )
    prepared.warnings += _remarks(prepared)
    teacher = teach(objective, engine, console)
    prepared.retention = _retention(prepared, console, written)
    if teacher is not None:
        teacher.check(train.examples, train.data.origins)
        teacher.check(prepared.retention.replayed)
        prepared.streamed = streamed and replace(streamed, teacher=teacher)
    _check_whole_steps(prepared)
    beside = prepared.retention.nbytes + (teacher.nbytes if teacher else 0)
    prepared.memory, unfit = fit_memory(recipe.training, engine, prepared.plan(), beside)
    prepared.warnings += unfit
    return prepared


def _splits(recipe: Recipe, task: Task) -> Splits:
    seed = recipe.training.seed
    if isinstance(task, MultiTask):
        check_metrics(task, recipe)
        return splits_of_members(task, selects(recipe), seed)
    return load_splits(recipe.data, task.Record, selects(recipe), seed)


def _encoded(
    recipe: Recipe, task: Task, splits: Splits, engine: Engine, console: Console, streamed: bool
) -> tuple[Part, Part, Part | None]:
    """Encode training, test and validation records; the first window of a stream is not kept."""
    if isinstance(task, MultiTask):
        how = (engine.model, recipe.training, console)
        held = splits.validation
        return (
            encode_members(task, splits.train, *how),
            encode_members(task, splits.test, *how),
            None if held is None else encode_members(task, held, *how),
        )
    drop = recipe.data.unlearnable == "drop"
    store = Store(task, engine.model, recipe.training.cache_gb, console)
    train = encode(task, splits.train, drop=drop, store=None if streamed else store)
    test = encode(task, splits.test, drop=drop, store=store)
    if splits.validation is None:
        return train, test, None
    return train, test, encode(task, splits.validation, drop=drop, store=store)


def _remarks(prepared: Prepared) -> list[str]:
    """Say what a user should know of the records and the model, a sentence each."""
    found = [
        *prepared.splits.warnings,
        *_cut("train", prepared.train),
        *_cut("validation", prepared.validation),
        *_cut("test", prepared.test),
        *_lookalikes(prepared),
        *_left_out(prepared.dropped),
    ]
    if not surgery_of(prepared.model.source.path).get("keeps_answers", True):
        found.append(
            "What is measured before training is the altered model, not the one that is published."
        )
    return found


def _retention(prepared: Prepared, console: Console, written: Path | None) -> Retention:
    """Make the retainers, and warn of what of the held-out records is replayed.

    Raises:
        RecipeError, DataError: a retainer cannot serve here, or there is no end among which to mix
            old examples.
    """
    made = make_retention(
        prepared.recipe,
        prepared.task,
        prepared.technique,
        prepared.objective,
        prepared.engine,
        len(prepared.train.examples),
        console,
        written,
    )
    held = {"test": prepared.test, "validation": prepared.validation}
    prepared.warnings += check_replayed(made.replayed, held)
    if prepared.streamed is not None and made.replayed:
        raise RecipeError(
            "Old examples are mixed in among all training records, and a stream has no end among"
            " which to mix them.",
            where="retain",
            fix="Leave replay out, or put the old records into a file of data.train.",
        )
    return made


def _check_whole_steps(prepared: Prepared) -> None:
    """Refuse steps of several micro-batches where the records of a step are compared.

    Raises:
        RecipeError: a step is larger than a micro-batch may be.
    """
    if isinstance(prepared.task, MultiTask):
        plan = prepared.plan()
        assert isinstance(plan, MixedPlan)
        check_whole_steps(prepared.task, plan)
    if not prepared.objective.whole_step:
        return
    plan = prepared.plan()
    largest = max(plan.tokens_of(step) for step in range(len(plan)))
    if any(plan.passes(step) > 1 for step in range(len(plan))):
        raise RecipeError(
            f"The objective {prepared.objective.name!r} compares all records of a step, but the"
            f" largest step has {largest} tokens, more than one pass takes.",
            where="training.tokens_per_batch",
            fix=f"Raise it to {largest}, or lower training.batch_size.",
        )


def _drawn(recipe: Recipe, task: Task, data: Dataset) -> Callable[[int], Sequence[Encoded]]:
    """Return what encodes training records drawn at random; broken ones are refused later."""

    if isinstance(task, MultiTask):  # its body is the leading member's
        name = task.leading
        task, data = task.members[name], by_member(data)[name]

    def examples(count: int) -> Sequence[Encoded]:
        generator = torch.Generator().manual_seed(recipe.training.seed)
        order = torch.randperm(len(data.records), generator=generator).tolist()
        return encode(task, data.take(order[:count]), drop=True).examples[:count]

    return examples


def _cut(name: str, part: Part | None) -> list[str]:
    """Say in a sentence which records of a part were cut to fit, if any were."""
    if part is None:
        return []
    origins = [part.data.origins[owner] for owner in owners(part.examples)]
    sentence = cut_sentence(find_targets(part.examples), origins, name)
    return [sentence] if sentence else []


def _lookalikes(prepared: Prepared) -> list[str]:
    """Say in a sentence which training records say what looks like a control token, if any do."""
    data = prepared.train.data
    said = [prepared.task.lookalikes(record) for record in data.records]
    records = "train records" if prepared.streamed is None else "train records of the first window"
    sentence = lookalike_sentence(list(zip(data.origins, said, strict=True)), records)
    return [sentence] if sentence else []


def _left_out(dropped: Sequence[Dropped]) -> list[str]:
    """Say in a sentence which records were left out, if any were."""
    if not dropped:
        return []
    shown = ", ".join(record.origin for record in dropped[:_SHOWN])
    more = ", ..." if len(dropped) > _SHOWN else ""
    return [
        f"Records left out, as nothing of them would be learnt: {len(dropped)} ({shown}{more})."
    ]


def cut_records(part: Part) -> list[tuple[str, Any]]:
    """Return (origin, cut) of each record of which something did not fit."""
    return [
        (origin, example.cut) for origin, example in _with_origins(part) if example.cut is not None
    ]


def _with_origins(part: Part) -> Sequence[tuple[str, Encoded]]:
    if len(part.examples) != len(part.data.records):
        firsts = [example for example in part.examples if not example.continues]
        return list(zip(part.data.origins, firsts, strict=True))
    return list(zip(part.data.origins, part.examples, strict=True))
