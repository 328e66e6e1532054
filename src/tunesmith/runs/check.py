"""`check`: everything that can be known before training. Writes nothing.

    Recipe ──prepare──> what would train ──quality, one trial batch──> CheckResult

It prepares exactly what `train` would, so a recipe that passes here starts there. Time is found by
computing the first micro-batch twice; the gradients are thrown away.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tunesmith
from tunesmith.console import Console
from tunesmith.data.dataset import Dataset
from tunesmith.data.display import pieces
from tunesmith.data.plan import Step
from tunesmith.errors import RecipeError
from tunesmith.evaluation.significance import Detectable, detectable_before
from tunesmith.evidence.check_page import page_place, write_check_page
from tunesmith.quality.balance import class_balance
from tunesmith.quality.duplicates import Duplicates, find_duplicates
from tunesmith.quality.leaks import find_leaks
from tunesmith.quality.lengths import token_lengths
from tunesmith.quality.targets import trained_tokens
from tunesmith.recipes.load import load_recipe
from tunesmith.runs.encoding import Part
from tunesmith.runs.frozen import decide, hold
from tunesmith.runs.members import primary_metric
from tunesmith.runs.multitask import by_member, mixture, names_of
from tunesmith.runs.prepare import Prepared, cut_records, prepare
from tunesmith.runs.summary import class_counts, parameter_counts, predicted_memory
from tunesmith.runs.vectors import ENCODER
from tunesmith.tasks.multitask import MultiTask
from tunesmith.tasks.parts.pieces import owners

if TYPE_CHECKING:
    from tunesmith.runs.deep import DeepCheck


@dataclass(frozen=True)
class PartCheck:
    """Counts and token lengths of one part of the data."""

    records: int
    tokens: int
    trained_tokens: int
    shortest: int
    median: float
    longest: int


@dataclass(frozen=True)
class RecordCheck:
    """A record that needs a look, and why."""

    origin: str
    reason: str


@dataclass(frozen=True)
class Piece:
    """Neighbouring tokens of a record, as text, all of them learnt or none."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Shown:
    """A record as the model sees it; `learnt` is what is learnt that is no token of its text."""

    origin: str
    tokens: list[Piece]
    learnt: str | None = None


@dataclass(frozen=True)
class Deciding:
    """The metric that decides one of several tasks, and what its test could show."""

    task: str
    metric: str
    test_records: int
    detectable: float | None
    assumption: str | None


@dataclass(frozen=True)
class CheckResult:
    """What is known of a recipe before training; see `tunesmith check --help`."""

    model: str
    kind: str
    task: str
    technique: str
    format: str
    ignored: list[str]
    train: PartCheck
    validation: PartCheck | None
    test: PartCheck
    cut: list[RecordCheck]
    dropped: list[RecordCheck]
    classes: dict[str, int] | None
    exact_duplicates: list[RecordCheck]
    near_duplicates: list[RecordCheck]
    leaks: list[RecordCheck]
    parameters: int
    trainable_parameters: int
    steps: int
    memory_bytes: int
    seconds: float | None
    metric: str | None
    detectable: float | None
    assumption: str | None
    members: dict[str, Deciding]
    remarks: list[str]
    warnings: list[str]
    shown: list[Shown]
    deep: DeepCheck | None
    page: str | None


def check(
    recipe: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    show: int = 0,
    deep: bool = False,
    encoder: str = ENCODER,
    html: str | Path | None = None,
    console: Console | None = None,
) -> CheckResult:
    """Find out what a recipe would do.

    Args:
        show: how many training records to return as the model sees them.
        deep: look closely at the records: labels, duplicates, personal data and more.
        encoder: the text model by whose vectors a close look judges labels and outliers.
        html: where to write the result as a page, if anywhere.

    Raises:
        InputError: the recipe, its data or its model is wrong: the same that `train` would raise.
        RunError: the page cannot be written.
    """
    console = console or Console()
    page = None if html is None else page_place(Path(html))
    prepared = prepare(load_recipe(recipe, overrides), console)
    result = _result(prepared, show)
    if deep and isinstance(prepared.task, MultiTask):
        raise RecipeError(
            "A close look compares the records of one task with each other.",
            where="--deep",
            fix="Check a recipe of one of the tasks, with its own data.",
        )
    if deep:
        from tunesmith.runs.deep import look  # what it looks with takes a second to import

        parts = {"train": prepared.train, "validation": prepared.validation, "test": prepared.test}
        datasets = {name: part.data for name, part in parts.items() if part is not None}
        result = replace(result, deep=look(datasets, encoder, console))
    if page is None:
        return result
    write_check_page(asdict(result), page, tunesmith.__version__)
    return replace(result, page=str(page))


def _result(prepared: Prepared, show: int) -> CheckResult:
    counts = parameter_counts(prepared)
    task = prepared.task
    members = _members(prepared)
    metric = None if members else primary_metric(prepared.recipe, task)
    could_show = None if metric is None else _detectable(prepared, metric)[1]
    of_tasks = _of_tasks(prepared)
    return CheckResult(
        model=prepared.model.source.name,
        kind=prepared.model.anatomy.kind,
        task=task.name,
        technique=prepared.technique.name,
        format=prepared.train.data.format,
        ignored=list(prepared.train.data.ignored),
        train=_part(prepared.train),
        validation=_part(prepared.validation) if prepared.validation else None,
        test=_part(prepared.test),
        cut=[
            RecordCheck(origin, f"{cut.tokens} tokens cut on the {cut.side}, {cut.targets} learnt")
            for origin, cut in cut_records(prepared.train)
        ],
        dropped=[RecordCheck(lost.origin, lost.reason) for lost in prepared.dropped],
        classes=class_counts(prepared.train) if task.labels else None,
        **_repeats(of_tasks),
        parameters=counts["parameters"],
        trainable_parameters=counts["trainable"],
        steps=1 if prepared.technique.solver else len(prepared.plan()),
        memory_bytes=predicted_memory(prepared),
        seconds=estimated_seconds(prepared),
        metric=metric,
        detectable=could_show.difference if could_show else None,
        assumption=could_show.assumption if could_show else None,
        members=members,
        remarks=[*task.remarks(), *_of_a_stream(prepared), *_of_members(prepared)],
        warnings=[*prepared.warnings, *(said for each in of_tasks for said in _warnings(each))],
        shown=[_shown(prepared, index) for index in _to_show(prepared, show)],
        deep=None,
        page=None,
    )


def _detectable(prepared: Prepared, name: str) -> tuple[int, Detectable | None]:
    """Return how many test records a metric is measured on, and what these could show."""
    task, evaluation = prepared.task, prepared.recipe.evaluation
    metric, records = task.metrics[name], prepared.test.data.records
    several = isinstance(task, MultiTask)
    tested = names_of(records)[name.partition("/")[0]] if several else len(records)
    if metric.generated:
        tested = min(tested, evaluation.generate)
    return tested, detectable_before(tested, metric, confidence=evaluation.confidence)


def _of_a_stream(prepared: Prepared) -> list[str]:
    return [] if prepared.streamed is None else [prepared.streamed.introduction()]


def _records(part: Part) -> int:
    return len(part.data.records)


def _part(part: Part) -> PartCheck:
    lengths = token_lengths(part.examples)
    return PartCheck(
        records=_records(part),
        tokens=lengths.total,
        trained_tokens=sum(trained_tokens(example) for example in part.examples),
        shortest=lengths.smallest,
        median=lengths.median,
        longest=lengths.largest,
    )


@dataclass(frozen=True)
class _OfTask:
    """The records of one task, and what stands twice in its training records."""

    train: Dataset
    test: Dataset
    labels: bool
    duplicates: Duplicates


def _of_tasks(prepared: Prepared) -> list[_OfTask]:
    """Return the records of the task; of several tasks, those of each."""
    train, test, task = prepared.train.data, prepared.test.data, prepared.task
    parts = [(task, train, test)]
    if isinstance(task, MultiTask):
        learnt, tested = by_member(train), by_member(test)
        parts = [(own, learnt[name], tested[name]) for name, own in task.members.items()]
    return [
        _OfTask(learnt, tested, bool(own.labels), find_duplicates(learnt.records))
        for own, learnt, tested in parts
    ]


def _repeats(of_tasks: Sequence[_OfTask]) -> dict[str, list[RecordCheck]]:
    found: dict[str, list[RecordCheck]] = {
        "exact_duplicates": [],
        "near_duplicates": [],
        "leaks": [],
    }
    for each in of_tasks:
        train, test = each.train, each.test
        leaks = find_leaks(train.records, test.records)
        found["exact_duplicates"] += [
            RecordCheck(train.origins[other], f"the same as {train.origins[group[0]]}")
            for group in each.duplicates.exact
            for other in group[1:]
        ]
        found["near_duplicates"] += [
            RecordCheck(
                train.origins[pair.second],
                f"{pair.similarity:.0%} the same as {train.origins[pair.first]}",
            )
            for pair in each.duplicates.near
        ]
        found["leaks"] += [
            RecordCheck(
                test.origins[pair.first],
                f"{pair.similarity:.0%} the same as {train.origins[pair.second]}",
            )
            for pair in [*leaks.exact, *leaks.near]
        ]
        found["leaks"] += [
            RecordCheck(test.origins[pair.first], f"asks the same as {train.origins[pair.second]}")
            for pair in leaks.same_prompt
        ]
    return found


def _warnings(each: _OfTask) -> list[str]:
    found: list[str] = []
    if each.labels:
        found += class_balance(each.train.records, each.test.records).warnings()
    contradictions = each.duplicates.contradictions
    if contradictions:
        first = ", ".join(each.train.origins[i] for i in contradictions[0])
        found.append(f"{len(contradictions)} texts stand in train under several labels ({first}).")
    return found


def _members(prepared: Prepared) -> dict[str, Deciding]:
    """Return what decides each of several tasks; nothing where there is one."""
    task = prepared.task
    found: dict[str, Deciding] = {}
    if not isinstance(task, MultiTask):
        return found
    for name, metric in task.primaries.items():
        tested, show = _detectable(prepared, metric)
        own = task.members[name].name
        could = (show.difference, show.assumption) if show else (None, None)
        found[name] = Deciding(own, metric, tested, *could)
    return found


def _of_members(prepared: Prepared) -> list[str]:
    """Say of each of several tasks how much is learnt of it."""
    task = prepared.task
    if not isinstance(task, MultiTask):
        return []
    said = mixture(task, prepared.train, prepared.plan())
    tested = names_of(prepared.test.data.records)
    return [f"{name}: {mixed}; {tested[name]} to test on." for name, mixed in said.items()]


def estimated_seconds(prepared: Prepared) -> float | None:
    """Time the first step and multiply; None where nothing learns by steps.

    Frozen layers that are computed once count once for each record. The gradients are thrown away:
    nothing is learnt.
    """
    if prepared.technique.solver:
        return None
    plan, engine = prepared.plan(), prepared.engine
    step = plan[0]
    whole = _seconds(prepared, step) / step.tokens
    frozen = decide(prepared)
    if frozen is None or frozen.refused:
        return whole * plan.tokens
    hold(frozen, engine, step)
    above = _seconds(prepared, step) / step.tokens
    engine.kept = None
    once = max(0.0, whole - above) * min(plan.tokens, prepared.train.tokens)
    return once + above * plan.tokens


def _seconds(prepared: Prepared, step: Step) -> float:
    """Time a step, the second time that it is computed."""
    engine, began = prepared.engine, 0.0
    for _ in range(2):  # the first pays for what is made once
        began = time.perf_counter()
        for batch in step:
            engine.forward_backward(batch, prepared.objective, step.counts)
    seconds = time.perf_counter() - began
    for parameter in engine.optimizer.parameters.values():
        parameter.grad = None
    return seconds


def _to_show(prepared: Prepared, count: int) -> list[int]:
    """Return the places of the first training records; of several tasks, the first of each."""
    records, seen = prepared.train.data.records, Counter[str]()
    several = isinstance(prepared.task, MultiTask)
    places: list[int] = []
    for place, record in enumerate(records):
        task = record.member if several else ""
        seen[task] += 1
        if seen[task] <= count:
            places.append(place)
    return places


def _shown(prepared: Prepared, index: int) -> Shown:
    part = prepared.train
    place = owners(part.examples).index(index)
    first, *others = part.examples[place].streams.values()
    # Of texts that are compared the first is shown; of a source and its target, both.
    streams = [first, *(stream for stream in others if stream.trained())]
    tokenizer = prepared.model.tokenizer
    shown = [Piece(*piece) for stream in streams for piece in pieces(tokenizer, stream)]
    learnt = None
    if not any(piece.trained for piece in shown):
        learnt = prepared.task.present(part.data.records[index])[1]
    return Shown(part.data.origins[index], shown, learnt)
