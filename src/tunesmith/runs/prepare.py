"""From a recipe to everything that a run needs in memory: data, task, model, technique, engine.

    Recipe ──prepare──> Prepared(task, technique, splits, examples, engine, objective, plan)

The same preparation serves `train`, `check` and the engine's door (`tunesmith.load`), so that what
is checked is what is trained. Nothing is written here but the model cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from tunesmith.console import Console
from tunesmith.data.batch import Encoded
from tunesmith.data.dataset import Dataset
from tunesmith.data.plan import Plan
from tunesmith.data.records import Dropped
from tunesmith.data.splits import Splits, load_splits
from tunesmith.data.streamed_plan import StreamedPlan
from tunesmith.engine.engine import Engine
from tunesmith.engine.optimizer import AdamWOptions
from tunesmith.engine.precision import choose_dtype
from tunesmith.errors import DataError, RecipeError, suggest
from tunesmith.models.altered import altered, settle, surgery_of
from tunesmith.models.kinds import check_fit, kind_of
from tunesmith.models.load import load_model, read_config
from tunesmith.models.model import Model
from tunesmith.models.quantised import Quantised, stored_as
from tunesmith.models.resolve import Resolved, resolve
from tunesmith.models.seeded import seeded
from tunesmith.models.surgery.base import Operation
from tunesmith.objectives.base import Objective
from tunesmith.quality.targets import cut_sentence, find_targets
from tunesmith.recipes.schema import Recipe, TrainingOptions
from tunesmith.registry import OBJECTIVES, OPERATIONS, TASKS, TECHNIQUES
from tunesmith.runs.encoded_store import Store
from tunesmith.runs.encoding import Part, encode
from tunesmith.runs.memory_budget import fit_memory
from tunesmith.runs.retain import Retention, check_replayed, make_retention, needs_validation
from tunesmith.runs.streamed import Streamed, stream_of
from tunesmith.runs.study import study_records
from tunesmith.runs.teacher import teach
from tunesmith.tasks.base import Task, owners
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
        return Plan(
            [*self.train.examples, *old] if old else self.train.examples,
            self.objective.all_counts,
            batch_size=training.batch_size,
            tokens_per_batch=training.tokens_per_batch,
            epochs=training.epochs,
            max_steps=training.max_steps,
            seed=training.seed,
            seen=self.task.seen if self.task.varies else None,
        )


def make_task(recipe: Recipe) -> Task:
    """Return the recipe's task, not bound to a model yet."""
    task: Task = TASKS.get(recipe.task.name)(recipe.task.options)
    return task


def make_technique(recipe: Recipe) -> Technique:
    """Return the recipe's technique."""
    technique: Technique = TECHNIQUES.get(recipe.technique.name)(recipe.technique.options)
    return technique


def make_operations(recipe: Recipe) -> list[Operation]:
    """Return the recipe's operations, in their order."""
    return [OPERATIONS.get(each.name)(each.options) for each in recipe.surgery]


def make_objective(recipe: Recipe, task: Task) -> Objective:
    """Return the recipe's objective, or the task's own."""
    if recipe.objective is None:
        own: Objective = OBJECTIVES.get(task.objective)()
        return own
    chosen: Objective = OBJECTIVES.get(recipe.objective.name)(recipe.objective.options)
    needed: type[Objective] = OBJECTIVES.get(task.objective)
    fix = f"Leave it out, or choose {task.objective!r}."
    if chosen.readout is not needed.readout:
        raise RecipeError(
            f"The objective {chosen.name!r} reads {chosen.readout.__name__}, but the task"
            f" {task.name!r} gives {needed.readout.__name__}.",
            where="objective",
            fix=fix,
        )
    if chosen.target and chosen.target != needed.target:
        raise RecipeError(
            f"The objective {chosen.name!r} learns {chosen.target}, but the task {task.name!r}"
            f" gives {needed.target}.",
            where="objective",
            fix=fix,
        )
    return chosen


def primary_metric(recipe: Recipe, task: Task) -> str:
    """Return the metric that decides: the recipe's, or the task's own.

    Raises:
        RecipeError: the task has no metric of that name.
    """
    name = recipe.evaluation.metric or task.primary
    if name not in task.metrics:
        raise RecipeError(
            f"The task {task.name!r} has no metric {name!r}.",
            where="evaluation.metric",
            fix=suggest(name, task.metrics),
        )
    return name


def check_decides(recipe: Recipe, task: Task, tested: int) -> None:
    """Refuse a test that could not decide, before anything is trained.

    Args:
        tested: how many test records there are.

    Raises:
        RecipeError: the task has no such metric, or it needs answers that are not generated.
        DataError: there are fewer than two test records.
    """
    metric = task.metrics[primary_metric(recipe, task)]
    if metric.generated and recipe.evaluation.generate < 2:
        raise RecipeError(
            f"The metric {metric.name!r}, which decides, is measured on generated answers; fewer"
            " than two of them show no difference.",
            where="evaluation.generate",
            fix="Raise it, or name another metric under evaluation.metric.",
        )
    if tested < 2:
        raise DataError(
            f"The test set has {tested} record: no difference could be told from chance.",
            where="data.test",
            fix="Give more records, or a larger share.",
        )


def selects(recipe: Recipe) -> bool:
    """Return whether anything is chosen by validation, so that data must be split off for it."""
    return selects_steps(recipe.training) or needs_validation(recipe)


def selects_steps(training: TrainingOptions) -> bool:
    """Return whether there are validations on the way."""
    return training.keep_best or training.patience is not None or bool(training.validate_every)


def prepare(
    recipe: Recipe,
    console: Console,
    state: Mapping[str, Any] | None = None,
    chosen: Mapping[str, Any] | None = None,
) -> Prepared:
    """Load and check everything that `recipe` asks for.

    Args:
        state: what the task noted when the run began, where it is gone on with.
        chosen: likewise of the technique.

    Raises:
        RecipeError, DataError, ModelError: what is wrong, before anything was trained.
    """
    task, technique = make_task(recipe), make_technique(recipe)
    splits = load_splits(recipe.data, task.Record, selects(recipe), recipe.training.seed)
    if state is not None:
        task.load_state(state)
    if chosen is not None:
        technique.load_state(chosen)
    task.study(splits.train.records)
    objective = make_objective(recipe, task)
    check_decides(recipe, task, len(splits.test))
    held = [splits.test, *([splits.validation] if splits.validation else [])]
    streamed = stream_of(recipe, task, technique, held)
    engine = build_engine(recipe, task, technique, console, _drawn(recipe, task, splits.train))
    drop = recipe.data.unlearnable == "drop"
    store = Store(task, engine.model, recipe.training.cache_gb, console)

    def encoded(data: Dataset) -> Part:
        return encode(task, data, drop=drop, store=store)

    train = encode(task, splits.train, drop=drop) if streamed else encoded(splits.train)
    test = encoded(splits.test)
    validation = None if splits.validation is None else encoded(splits.validation)
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
        warnings=[
            *splits.warnings,
            *_cut("train", train),
            *_cut("validation", validation),
            *_cut("test", test),
        ],
    )
    prepared.warnings.extend(_left_out(prepared.dropped))
    if not surgery_of(engine.model.source.path).get("keeps_answers", True):
        prepared.warnings.append(
            "What is measured before training is the altered model, not the one that is published."
        )
    taught = teach(objective, engine, train.examples, console)
    prepared.retention = make_retention(
        recipe, task, technique, objective, engine, len(train.examples), console
    )
    judging = {"test": test, "validation": validation}
    prepared.warnings.extend(check_replayed(prepared.retention.replayed, judging))
    if streamed is not None and prepared.retention.replayed:
        raise RecipeError(
            "Old examples are mixed in among all training records, and a stream has no end among"
            " which to mix them.",
            where="retain",
            fix="Leave replay out, or put the old records into a file of data.train.",
        )
    _check_whole_steps(prepared)
    prepared.memory, unfit = fit_memory(
        recipe.training, engine, prepared.plan(), taught + prepared.retention.nbytes
    )
    prepared.warnings.extend(unfit)
    return prepared


def _check_whole_steps(prepared: Prepared) -> None:
    """Refuse steps of several micro-batches where the records of a step are compared.

    Raises:
        RecipeError: a step is larger than a micro-batch may be.
    """
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


def build_engine(
    recipe: Recipe,
    task: Task,
    technique: Technique,
    console: Console,
    examples: Callable[[int], Sequence[Encoded]] = lambda count: (),
) -> Engine:
    """Load the model, put the task's head on it, and mark what learns.

    Args:
        examples: gives up to so many training examples, where a technique looks at some; it is
            called when the task has been bound.

    Raises:
        RecipeError, ModelError: the model, the task and the technique do not go together.
    """
    training = recipe.training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype(training.precision, device)
    operations = make_operations(recipe)
    source = altered(resolve(recipe.model, console=console), operations, console)
    kind = refuse(technique, task, source)
    quantised = quantised_base(recipe, task, technique, source)
    head = technique.head(task.head_for(kind))
    model = load_model(
        source,
        head=head,
        labels=task.outputs,
        dtype=dtype,
        seed=training.seed,
        quantised=quantised,
        streamed=recipe.base.stream,
    )
    if quantised is None:  # what is quantised was loaded to where it belongs
        model.module.to(device)
    model.surgery = tuple(surgery_of(source.path).get("changes", ()))
    settle(model, operations, "loaded")
    if technique.records_to_study:
        task.bind(model)
        study_records(
            technique,
            model,
            make_objective(recipe, task),
            examples(technique.records_to_study),
            dtype=dtype,
            seed=training.seed,
        )
    with seeded(training.seed):
        technique.prepare(model)
    settle(model, operations, "marked")
    if model.streamed is not None:
        model.streamed.check_unchanged()
    task.bind(model)  # what learns may take room of the context
    return Engine(
        model,
        technique.parameter_groups(model),
        AdamWOptions(
            weight_decay=training.weight_decay,
            beta1=training.beta1,
            beta2=training.beta2,
            epsilon=training.epsilon,
            max_grad_norm=training.max_grad_norm,
            kind=training.optimizer,
            clip_per_tensor=training.clip_per_tensor,
            in_backward=training.optimizer_in_backward,
            stochastic_rounding=training.stochastic_rounding,
            seed=training.seed,
        ),
        dtype=dtype,
        packing=training.packing,
    )


def _drawn(recipe: Recipe, task: Task, data: Dataset) -> Callable[[int], Sequence[Encoded]]:
    """Return what encodes training records drawn at random; broken ones are refused later."""

    def examples(count: int) -> Sequence[Encoded]:
        generator = torch.Generator().manual_seed(recipe.training.seed)
        order = torch.randperm(len(data.records), generator=generator).tolist()
        return encode(task, data.take(order[:count]), drop=True).examples[:count]

    return examples


def quantised_base(
    recipe: Recipe, task: Task, technique: Technique, source: Resolved
) -> Quantised | None:
    """Return how the base is to be quantised, or None where it is not.

    Raises:
        RecipeError: the technique would change a base that is quantised or lies on disk; says how.
    """
    kind, stream = recipe.base.quantize, recipe.base.stream
    stored = stored_as(read_config(source))
    if kind is None and stored is None and not stream:
        return None
    base = "base that lies on disk" if stream else "quantised base"
    reason = technique.changes_base()
    if reason:
        raise RecipeError(
            f"The technique {technique.name!r} cannot stand on a {base}: {reason}.",
            where="base.stream" if stream else "technique" if kind is None else "base.quantize",
            fix="Choose lora, or leave it out.",
        )
    if task.head == "embedding":
        raise RecipeError(
            f"The task {task.name!r} gives vectors that sentence-transformers reads, and it would"
            f" put them on the base as it is published, not on a {base}.",
            where="base",
            fix="Leave it out.",
        )
    if stream and (stored or torch.cuda.is_available()):
        raise RecipeError(
            "Layers are read from disk one by one only on a processor, and as they are published.",
            where="base.stream",
            fix="Leave it out, or choose `quantize`.",
        )
    return None if kind is None else Quantised(kind, recipe.base.double_quantize)


def refuse(technique: Technique, task: Task, source: Resolved) -> str:
    """Refuse a technique or a task that cannot go with this kind of model, before it is loaded.

    Returns:
        The kind.

    Raises:
        RecipeError: says why.
    """
    config = read_config(source)
    head = task.head_for(kind_of(config))
    kind = check_fit(source.name, config, head)
    if kind not in task.kinds:
        raise RecipeError(
            f"The task {task.name!r} needs a {' or '.join(sorted(task.kinds))};"
            f" {source.name} is a model of kind {kind}.",
            where="model",
            fix="Choose another model: `tunesmith models list`.",
        )
    reason = technique.refuses(head, kind) or technique.unsuited(head)
    if reason:
        raise RecipeError(
            f"The technique {technique.name!r} does not suit the task {task.name!r}: {reason}.",
            where="technique",
        )
    return kind


def _cut(name: str, part: Part | None) -> list[str]:
    """Say in a sentence which records of a part were cut to fit, if any were."""
    if part is None:
        return []
    origins = [part.data.origins[owner] for owner in owners(part.examples)]
    sentence = cut_sentence(find_targets(part.examples), origins, name)
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
