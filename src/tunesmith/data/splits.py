"""Parts records into train, validation and test, so that nothing tested was learnt from.

    by file    the recipe names the test (validation) file
    by share   a share of train is held out: seeded, stratified by class, exact duplicates together
    by group   likewise, and all records of a group stay on one side

All questions on one text count as a group. Test comes off first, then validation is a share of what
is left. The same seed gives the same split. Files that overlap are told apart: where most of a test
file stands in train the verdict would be worthless, an error; a few records are a warning with
count and examples.

Shapes: N records, U units (records that may not be parted: duplicates and groups).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel

from tunesmith.data.dataset import Dataset, load_dataset
from tunesmith.data.records import (
    Dropped,
    LabelledText,
    MultiLabelledText,
    QuestionedText,
    RankedTexts,
    RelatedTexts,
    content_key,
)
from tunesmith.data.streaming import Position, Stream
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from tunesmith.recipes.data import DataOptions

VALIDATION_SHARE = 0.1
"""Share of train that becomes validation where one is needed and none is named."""
WORTHLESS_OVERLAP = 0.5
"""From this share of a held-out file standing in train on, there is no verdict: an error."""
_SHOWN = 3


@dataclass(frozen=True)
class Splits:
    """The parts of the data; `validation` is None where nothing is selected by it.

    `dropped` are the records that were left out when the data was read.
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset
    warnings: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


def load_splits(
    options: DataOptions,
    record_type: type[BaseModel],
    needs_validation: bool,
    seed: int,
    base: Path | None = None,
) -> Splits:
    """Read all the data that a recipe names, and part it.

    Args:
        options: the recipe's `data`. Of a stream, train is the first window.
        record_type: what the task learns from.
        needs_validation: whether anything (early stopping, the best checkpoint) is selected by it.
        seed: of the split.
        base: the folder that relative paths start from.

    Raises:
        DataError: a source cannot be read, or cannot be parted so.
    """

    def load(specs: Sequence[str]) -> Dataset:
        return load_dataset(
            specs,
            record_type,
            options.format,
            options.group,
            options.columns,
            base,
            drop=options.unlearnable == "drop",
        )

    def load_file(value: str | float | None) -> Dataset | None:
        return load([value]) if isinstance(value, str) else None

    if options.streaming:
        if needs_validation and options.validation is None:
            raise DataError(
                "Something is chosen by validation records, and a stream has none to spare.",
                where="data.validation",
                fix="Name a file of validation records.",
            )
        train, needs_validation = Stream(record_type, options, base).window(Position()).data, False
    else:
        train = load(options.train)
    test, validation = load_file(options.test), load_file(options.validation)
    parts = split(options, train, test, validation, needs_validation=needs_validation, seed=seed)
    read = (train, validation, test)
    return replace(parts, dropped=[lost for part in read if part for lost in part.dropped])


def split(
    options: DataOptions,
    train: Dataset,
    test: Dataset | None = None,
    validation: Dataset | None = None,
    *,
    needs_validation: bool,
    seed: int,
) -> Splits:
    """Part records; `test` and `validation` are those of files, None where a share is meant.

    Raises:
        DataError: too few records for a share, or a file that mostly stands in another.
    """
    warnings: list[str] = []
    if test is not None:
        warnings += _overlap("test", test, "train", train)
    else:
        assert isinstance(options.test, float | int)
        train, test = hold_out(train, options.test, "test", options.stratify, (seed, 0))
    share = options.validation
    if validation is not None:
        warnings += _overlap("validation", validation, "train", train)
    elif share is not None or needs_validation:
        part = VALIDATION_SHARE if share is None else float(share)
        train, validation = hold_out(train, part, "validation", options.stratify, (seed, 1))
    if validation is not None:
        warnings += _overlap("test", test, "validation", validation)
    return Splits(train, validation, test, warnings)


def hold_out(
    dataset: Dataset, share: float, name: str, stratify: bool, seed: Sequence[int]
) -> tuple[Dataset, Dataset]:
    """Return (what is kept, what is held out): about `share` of the records.

    Exact duplicates stay on one side, and so do groups. Stratified, each class has its share
    within one record, as far as duplicates and groups allow, and no class leaves train.

    Args:
        name: `test` or `validation`, for messages.
        stratify: keep the balance of classes; of no effect where records have none.
        seed: of the random choice.

    Raises:
        DataError: one side would be empty.
    """
    units = _units(dataset)
    times = Counter(
        label for r in dataset.records if isinstance(r, MultiLabelledText) for label in r.labels
    )
    classes = [_class_of(dataset, unit, times) if stratify else None for unit in units]
    order = np.random.default_rng(seed).permutation(len(units))
    quotas = _quotas(Counter(_per_record(units, classes)), share)
    held: list[int] = []
    for wanted in quotas:
        members = [units[u] for u in order if classes[u] == wanted]
        held += _fill(members, quotas[wanted])
    if not held:
        raise DataError(
            f"A {name} share of {share:g} of {len(dataset)} records is not one record"
            f"{' that may leave train (one group or one text)' if len(units) == 1 else ''}.",
            where=f"data.{name}",
            fix="Give more records, a larger share, or a file.",
        )
    chosen = set(held)
    kept = [i for i in range(len(dataset)) if i not in chosen]
    return dataset.take(kept), dataset.take(sorted(held))


def _per_record(units: Sequence[Sequence[int]], classes: Sequence[Hashable]) -> list[Hashable]:
    return [wanted for unit, wanted in zip(units, classes, strict=True) for _ in unit]


def _units(dataset: Dataset) -> list[list[int]]:
    """Return sets of records that may not be parted: joined by equal text or equal group."""
    parent = list(range(len(dataset)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    seen: dict[Hashable, int] = {}
    for i, record in enumerate(dataset.records):
        ties: list[Hashable] = [("text", content_key(record))]
        if isinstance(record, QuestionedText | RelatedTexts | RankedTexts):  # all on one text
            ties.append(("passage", record.text))
        if dataset.groups is not None:
            ties.append(("group", dataset.groups[i]))
        for tie in ties:
            if tie in seen:
                parent[root(i)] = root(seen[tie])
            else:
                seen[tie] = i
    units: dict[int, list[int]] = defaultdict(list)
    for i in range(len(dataset)):
        units[root(i)].append(i)
    return list(units.values())


def _class_of(dataset: Dataset, unit: Sequence[int], times: Mapping[str, int]) -> str | None:
    """Return the class that most records of a unit have (the first of equals).

    Of a record with several classes that is the rarest of them, by `times`.
    """
    records = [dataset.records[i] for i in unit]
    labels = [r.label for r in records if isinstance(r, LabelledText)]
    labels += [
        min(r.labels, key=lambda label: (times[label], label))
        for r in records
        if isinstance(r, MultiLabelledText) and r.labels
    ]
    return Counter(labels).most_common(1)[0][0] if labels else None


def _quotas(counts: Mapping[Hashable, int], share: float) -> dict[Hashable, int]:
    """Return how many records of each class to hold out: `share` of all, by largest remainder.

    A class of one record stays in train.
    """
    ideal = {name: share * count for name, count in counts.items()}
    quotas = {name: int(value) for name, value in ideal.items()}
    spare = round(share * sum(counts.values())) - sum(quotas.values())
    by_remainder = sorted(ideal, key=lambda name: quotas[name] - ideal[name])
    for name in by_remainder[: max(spare, 0)]:
        quotas[name] += 1
    return {name: min(quota, counts[name] - 1) for name, quota in quotas.items()}


def _fill(units: Sequence[list[int]], quota: int) -> list[int]:
    """Take units in their order while they fit; where none fits, the smallest. Never all."""
    taken: list[list[int]] = []
    size = 0
    for unit in units:
        if size + len(unit) <= quota and len(taken) + 1 < len(units):
            taken.append(unit)
            size += len(unit)
    if not taken and quota > 0 and len(units) > 1:
        taken = [min(units, key=len)]
    return [i for unit in taken for i in unit]


def _overlap(name: str, held: Dataset, other_name: str, other: Dataset) -> list[str]:
    """Compare a held-out set with another: nothing, a warning, or an error."""
    where_in_other = {content_key(r): o for r, o in zip(other.records, other.origins, strict=True)}
    both = [
        f"{origin} = {where_in_other[key]}"
        for record, origin in zip(held.records, held.origins, strict=True)
        if (key := content_key(record)) in where_in_other
    ]
    if not both:
        return _shared_groups(name, held, other_name, other)
    examples = ", ".join(both[:_SHOWN]) + (", ..." if len(both) > _SHOWN else "")
    if len(both) >= WORTHLESS_OVERLAP * len(held):
        extent = "The whole" if len(both) == len(held) else f"{len(both)} of {len(held)} records of"
        raise DataError(
            f"{extent} {name} set also {'stand' if len(both) < len(held) else 'stands'} in "
            f"{other_name} ({len(both)} of {len(held)}; {examples}): a verdict on it would say "
            "nothing.",
            where=f"data.{name}",
            fix=f"Give records of its own, or a share of train (data.{name}: 0.2).",
        )
    return [
        f"{len(both)} of {len(held)} {name} records also stand in {other_name}: {examples}",
        *_shared_groups(name, held, other_name, other),
    ]


def _shared_groups(name: str, held: Dataset, other_name: str, other: Dataset) -> list[str]:
    shared = sorted(set(held.groups or ()) & set(other.groups or ()))
    if not shared:
        return []
    shown = ", ".join(shared[:_SHOWN]) + (", ..." if len(shared) > _SHOWN else "")
    return [f"Groups with records in both {name} and {other_name}: {len(shared)} ({shown})"]
