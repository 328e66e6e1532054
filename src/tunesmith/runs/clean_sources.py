"""The records that `clean` reads: where they stand, what they become, and which row each is.

    recipe or file ──asked_for──> Asked ──read──> Source(rows, records, the row of each)

It refuses what could not be written again before anything is looked for. What is done to the rows
is decided in `clean.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data.dataset import Dataset, load_dataset
from tunesmith.data.formats import FORMATS, Format
from tunesmith.data.questions import paragraphs_of, questions_of
from tunesmith.data.records import LabelledText, QuestionedText, TaggedText
from tunesmith.data.rewrite import refuse_change
from tunesmith.data.sources import read_source
from tunesmith.errors import DataError, RecipeError
from tunesmith.quality.findings import Finding
from tunesmith.recipes.load import load_recipe
from tunesmith.recipes.members import MULTITASK
from tunesmith.registry import TASKS

_RECIPES = (".yaml", ".yml")


@dataclass
class Source:
    """A source of records: its rows, the row of each record, and what becomes of them.

    `nested` are its rows as they stand in the file, where they are articles that hold questions;
    `rows` are then the questions.
    """

    path: Path
    data: Dataset
    rows: list[dict[str, Any]]
    places: list[int]
    origins: list[str]
    nested: list[dict[str, Any]] | None
    columns: Mapping[str, str]
    dropped: dict[int, Finding] = field(default_factory=dict)
    changed: dict[int, tuple[Finding, dict[str, Any]]] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, str]:
        """For each field that the format reads, its name in the file."""
        format = FORMATS[self.data.format]
        return {name: self.columns.get(name, name) for name in (*format.required, *format.optional)}


@dataclass(frozen=True)
class Asked:
    """What is to be read: sources, what they become and how, and what may hold the same records."""

    specs: list[str]
    record: type[Any]
    format: str
    columns: Mapping[str, str]
    against: list[str]


def asked_for(source: str | Path, overrides: Sequence[str], against: Sequence[str]) -> Asked:
    """Find out what is to be read of a recipe, or of a file or folder of records.

    Raises:
        InputError: it cannot be read, or its format is not known.
    """
    if Path(source).suffix.lower() in _RECIPES:
        recipe = load_recipe(source, overrides)
        if recipe.task.name == MULTITASK:
            raise RecipeError(
                "The records of several tasks are cleaned task by task.",
                where=str(source),
                fix="Give the files of one of them, or a recipe of it alone.",
            )
        data = recipe.data
        held = [each for each in (data.test, data.validation) if isinstance(each, str)]
        record = TASKS.get(recipe.task.name).Record
        return Asked(data.train, record, data.format, data.columns, [*held, *against])
    rows = read_source(str(source)).rows
    rows, _ = questions_of(rows, [""] * len(rows))
    found = _recognised(rows, str(source))
    return Asked([str(source)], found.record, found.name, {}, list(against))


def _recognised(rows: Sequence[Mapping[str, Any]], where: str) -> Format:
    """Return the format whose fields most rows have; of several, the one that asks for most."""
    counts = Counter(name for row in rows for name in row)
    fields = [name for name, count in counts.items() if 2 * count > len(rows)]
    fitting = [each for each in FORMATS.values() if each.fits(fields) and not each.by_name]
    if not fitting:
        raise DataError(
            f"The fields {', '.join(map(repr, fields)) or 'of these rows'} are no known format.",
            where=where,
            fix="Give a recipe instead, which says how to read them (data.columns).",
        )
    return max(fitting, key=lambda each: len(each.required))


def load(specs: Sequence[str], asked: Asked) -> Dataset:
    """Read records, without those of which nothing would be learnt."""
    return load_dataset(specs, asked.record, asked.format, None, asked.columns, drop=True)


def read(spec: str, asked: Asked) -> Source:
    """Read one source, and find the row of each of its records.

    Raises:
        DataError: it cannot be read, or could not be written again.
    """
    path = Path(spec).expanduser()
    if not path.exists():
        raise DataError(
            "Only files and folders on this machine can be written again.",
            where=spec,
            fix="Save the data set as a file first.",
        )
    raw = read_source(spec)
    rows, origins = questions_of(raw.rows, raw.origins)
    data = load([spec], asked)
    places = _places(data.origins, origins)
    if len(places) + len(data.dropped) != len(rows):
        raise DataError(
            "Records of this source are made of several rows each; such cannot be written again.",
            where=spec,
            fix="Write one record a row.",
        )
    nested = raw.rows if any(paragraphs_of(row) is not None for row in raw.rows) else None
    return Source(path, data, rows, places, origins, nested, asked.columns)


def _places(kept: Sequence[str], origins: Sequence[str]) -> list[int]:
    """Return the place of each record's row; both are in the same order."""
    found: list[int] = []
    for place, origin in enumerate(origins):
        if len(found) < len(kept) and kept[len(found)] == origin:
            found.append(place)
    return found


def check_target(sources: Sequence[Source], target: Path) -> None:
    """Refuse a place or a name that the new records cannot have.

    Raises:
        DataError: says why.
    """
    names = [one.path.name for one in sources]
    if len(set(names)) < len(names):
        raise DataError(
            "Two sources have the same file name.",
            where=", ".join(str(one.path) for one in sources),
            fix="Clean them one by one.",
        )
    for one in sources:
        if one.path.is_dir() and target.resolve().is_relative_to(one.path.resolve()):
            raise DataError("This is within the source.", where=str(target), fix="Choose another.")
    only = sources[0].path
    if len(sources) == 1 and only.is_file() and only.suffix.lower() != target.suffix.lower():
        raise DataError(
            f"The new file stays in the format of its source: {only.suffix}.",
            where=str(target),
            fix=f"Name it {target.with_suffix(only.suffix).name}.",
        )


def check_changes(sources: Sequence[Source], change: Sequence[str]) -> None:
    """Refuse changes that these records cannot take.

    Args:
        change: kinds of finding that are to be mended.

    Raises:
        DataError: says why.
    """
    if not change:
        return
    for one in sources:
        reason = refuse_change(one.path)
        record = one.data.records[0]
        if "personal" in change and isinstance(record, TaggedText | QuestionedText):
            reason = "places are counted in the text, and would no longer be right"
        if "wrong_label" in change and not isinstance(record, LabelledText):
            reason = "its records have no single class"
        if reason:
            raise DataError(
                f"These records cannot be changed: {reason}.",
                where=str(one.path),
                fix="Drop them instead.",
            )
