"""The data of several tasks at once: read, parted and encoded member by member, mixed step by step.

    data of each member ──splits_of_members──> Splits of MemberRecord
    Splits ──encode_members──> Part ──mixed_plan──> steps, each micro-batch of one member

Each member's data is parted as if it were learnt from alone, so that its test records are the same
ones, and its encoded records are those that a run of it alone would find in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from tunesmith.console import Console
from tunesmith.data.batch import Batch, Encoded
from tunesmith.data.dataset import Dataset
from tunesmith.data.mixed_plan import Mixed, MixedPlan
from tunesmith.data.plan import Counts, Plan
from tunesmith.data.splits import Splits, load_splits
from tunesmith.errors import DataError, RecipeError, suggest
from tunesmith.models.model import Model
from tunesmith.recipes.schema import Recipe
from tunesmith.recipes.training import TrainingOptions
from tunesmith.runs.encoded_store import Store
from tunesmith.runs.encoding import Part, encode
from tunesmith.tasks.multitask import Member, MemberRecord, MultiTask
from tunesmith.tasks.parts.pieces import owners


def splits_of_members(task: MultiTask, needs_validation: bool, seed: int) -> Splits:
    """Read the data of every member, and part each by itself.

    Raises:
        DataError: names the member, and what is wrong with its data.
    """
    found: dict[str, Splits] = {}
    for name, member in task.options.members.items():
        record = type(task.members[name]).Record
        try:
            found[name] = load_splits(member.data, record, needs_validation, seed)
        except DataError as error:
            where = error.where or ""
            place = f"task.members.{name}.{where}" if where.startswith("data") else where
            raise DataError(error.what, where=place, fix=error.fix) from None
    held_out = {name: parts.validation for name, parts in found.items() if parts.validation}
    missing = next((name for name in found if name not in held_out), None)
    if held_out and missing:
        raise DataError(
            f"{next(iter(held_out))!r} has validation records and {missing!r} has none.",
            where=f"task.members.{missing}.data.validation",
            fix="Give each member some, or none.",
        )
    return Splits(
        _joined({name: parts.train for name, parts in found.items()}),
        _joined(held_out) if held_out else None,
        _joined({name: parts.test for name, parts in found.items()}),
        [f"{name}: {said}" for name, parts in found.items() for said in parts.warnings],
        [lost for parts in found.values() for lost in parts.dropped],
    )


def by_member(data: Dataset) -> dict[str, Dataset]:
    """Return the records of each member, as its own task reads them."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(data.records):
        places.setdefault(record.member, []).append(place)
    return {name: _bare(data.take(found)) for name, found in places.items()}


def _bare(data: Dataset) -> Dataset:
    return replace(data, records=[record.record for record in data.records])


def _joined(parts: Mapping[str, Dataset]) -> Dataset:
    return Dataset(
        [
            MemberRecord(member=n, record=record)
            for n, part in parts.items()
            for record in part.records
        ],
        [origin for part in parts.values() for origin in part.origins],
        " + ".join(dict.fromkeys(part.format for part in parts.values())),
        None,
        tuple(f"{name}: {field}" for name, part in parts.items() for field in part.ignored),
        tuple(lost for part in parts.values() for lost in part.dropped),
    )


def encode_members(
    task: MultiTask, data: Dataset, model: Model, training: TrainingOptions, console: Console
) -> Part:
    """Encode one part of the data, member by member."""
    parts: dict[str, Part] = {}
    for name, own in by_member(data).items():
        store = Store(task.members[name], model.of(name), training.cache_gb, console)
        drop = task.options.members[name].data.unlearnable == "drop"
        parts[name] = encode(task.members[name], own, drop=drop, store=store)
    return Part(
        _joined({name: part.data for name, part in parts.items()}),
        [example for part in parts.values() for example in part.examples],
        tuple(lost for part in parts.values() for lost in part.dropped),
    )


def mixed_plan(
    task: MultiTask, part: Part, count: Callable[[Batch], Counts], training: TrainingOptions
) -> MixedPlan:
    """Return the steps of a training on several tasks.

    Raises:
        RecipeError: a member that comes in late has no step left.
    """
    places: dict[str, list[int]] = {name: [] for name in task.members}
    for place, owner in enumerate(owners(part.examples)):
        places[part.data.records[owner].member].append(place)
    portions = task.portions({name: len(found) for name, found in places.items()})
    members = {
        name: Mixed(portions[name], places[name], member.seen if member.varies else None)
        for name, member in task.members.items()
    }
    plan = MixedPlan(
        part.examples,
        members,
        count,
        replay=task.options.replay,
        batch_size=training.batch_size,
        tokens_per_batch=training.tokens_per_batch,
        epochs=training.epochs,
        max_steps=training.max_steps,
        seed=training.seed,
    )
    unseen = [name for name, taken in zip(members, plan.taken.sum(0), strict=True) if not taken]
    if unseen:
        raise RecipeError(
            f"In {len(plan)} steps of {training.batch_size} records nothing is learnt of"
            f" {unseen[0]!r}.",
            where=f"task.members.{unseen[0]}",
            fix="Train for more steps, or give it a larger share: see task.mixing.",
        )
    return plan


def mixture(task: MultiTask, part: Part, plan: Plan) -> dict[str, str]:
    """Say of each member in words how much is learnt of it, of how many records."""
    assert isinstance(plan, MixedPlan)
    taken = plan.taken.sum(0)
    records = names_of(part.data.records)
    said = {}
    for (name, member), count in zip(task.options.members.items(), taken, strict=True):
        first = int((plan.taken[:, list(task.members).index(name)] > 0).argmax())
        later = f", from step {first + 1}" if member.begin else ""
        said[name] = (
            f"{member.task.name}, {records[name]:,} records, {count:,} of"
            f" {taken.sum():,} that are learnt ({count / taken.sum():.0%}){later}"
        )
    return said


def check_whole_steps(task: MultiTask, plan: MixedPlan) -> None:
    """Refuse steps in which the records of a member that compares them are in several passes.

    Raises:
        RecipeError: names the member.
    """
    comparing = [name for name, own in task.objectives().members.items() if own.whole_step]
    for step in range(len(plan)) if comparing else ():
        passes = plan.passes_of(step)
        broken = next((name for name in comparing if passes[name] > 1), None)
        if broken is not None:
            raise RecipeError(
                f"The task {broken!r} compares all its records of a step, but those of step"
                f" {step + 1} take {passes[broken]} passes.",
                where="training.tokens_per_batch",
                fix="Raise it, or lower training.batch_size.",
            )


def check_metrics(task: MultiTask, recipe: Recipe) -> None:
    """Refuse a metric that a member does not have, or that would not be measured.

    Raises:
        RecipeError: says which.
    """
    for name, metric in task.primaries.items():
        where = f"task.members.{name}.metric"
        if metric not in task.metrics:
            own = metric.partition("/")[2]
            raise RecipeError(
                f"The task {task.members[name].name!r} has no metric {own!r}.",
                where=where,
                fix=suggest(own, task.members[name].metrics),
            )
        if task.metrics[metric].generated and recipe.evaluation.generate < 2:
            raise RecipeError(
                f"The metric {metric!r}, which decides, is measured on generated answers; fewer"
                " than two of them show no difference.",
                where="evaluation.generate",
                fix=f"Raise it, or name another metric under {where}.",
            )


def check_member(task: str, members: Iterable[str] | None, name: str | None) -> None:
    """Check that a run is asked as one of its tasks, where it has several.

    Args:
        task: the name of the run's task.
        members: the names of its members; None where it is one task.
        name: of the member that is meant; None where none was named.

    Raises:
        RecipeError: there is no such member, or one must be named.
    """
    known = None if members is None else list(members)
    if known is None and name is not None:
        raise RecipeError(
            f"This run learnt one task, {task}: it has no member {name!r}.",
            where="--as",
            fix="Leave it out.",
        )
    if known is not None and name is None:
        raise RecipeError(
            f"This run learnt several tasks at once: {', '.join(known)}.",
            where="--as",
            fix=f"Name one of them, such as --as {known[0]}, or run.of({known[0]!r}) from Python.",
        )
    if known is not None and name not in known:
        raise RecipeError(
            f"This run has no member {name!r}.", where="--as", fix=suggest(str(name), known)
        )


def for_member(recipe: Recipe, name: str | None) -> Recipe:
    """Return what a recipe of several tasks asks for one of them, as a recipe of that one alone.

    Args:
        name: of the member; None where the recipe is of one task.

    Raises:
        RecipeError: there is no such member, or one must be named.
    """
    members: Mapping[str, Member] | None = getattr(recipe.task.options, "members", None)
    check_member(recipe.task.name, members, name)
    if members is None or name is None:
        return recipe
    member = members[name]
    evaluation = recipe.evaluation.model_copy(update={"metric": member.metric})
    return recipe.model_copy(
        update={"task": member.task, "data": member.data, "evaluation": evaluation}
    )


def first_of_each(part: Part, count: int) -> Part:
    """Return the first records of each member, at most `count` of all together."""
    names = list(dict.fromkeys(record.member for record in part.data.records))
    each = max(1, count // len(names))
    left = dict.fromkeys(names, each)
    chosen: list[int] = []
    for place, record in enumerate(part.data.records):
        if left[record.member]:
            left[record.member] -= 1
            chosen.append(place)
    kept = set(chosen)
    examples: list[Encoded] = [
        example
        for example, owner in zip(part.examples, owners(part.examples), strict=True)
        if owner in kept
    ]
    return Part(part.data.take(chosen), examples)


def names_of(records: Sequence[MemberRecord]) -> dict[str, int]:
    """Return how many records each member has."""
    found: dict[str, int] = {}
    for record in records:
        found[record.member] = found.get(record.member, 0) + 1
    return found
