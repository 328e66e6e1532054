"""Records of one task, read from any number of sources: what every later stage works on.

    specs ──read_source──> rows ──detect, convert──> records ──> Dataset

Splitting is `splits`, encoding belongs to the task, quality to `tunesmith.quality`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tunesmith.data.columns import fields_of, rename
from tunesmith.data.formats import FORMATS, convert_all, detect, serving
from tunesmith.data.labelled import gather
from tunesmith.data.questions import questions_of
from tunesmith.data.records import Dropped, RankedTexts
from tunesmith.data.sources import Raw, read_source
from tunesmith.errors import DataError, suggest


@dataclass(frozen=True)
class Dataset:
    """Records, and where each came from.

    Attributes:
        records: all of one type.
        origins: `origins[i]` says where record i stands, as `train.jsonl:17`.
        format: the name of the format it was read as.
        groups: the group of each record, where records are grouped.
        ignored: fields of the rows that nothing reads.
        dropped: records that were left out when it was read, and why.
    """

    records: list[Any]
    origins: list[str]
    format: str
    groups: list[str] | None = None
    ignored: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def take(self, indices: Sequence[int]) -> Dataset:
        """Return the records at these places, in that order; what was dropped is not theirs."""
        return Dataset(
            [self.records[i] for i in indices],
            [self.origins[i] for i in indices],
            self.format,
            None if self.groups is None else [self.groups[i] for i in indices],
            self.ignored,
        )


def load_dataset(
    specs: Sequence[str],
    record_type: type[BaseModel],
    format: str = "auto",
    group: str | None = None,
    columns: Mapping[str, str] | None = None,
    base: Path | None = None,
    *,
    drop: bool = False,
) -> Dataset:
    """Read every source and join them in order.

    Args:
        specs: files, folders, data sets of the hub: see `sources`.
        record_type: what the task learns from, one of the shapes in `records`.
        format: a name of `formats.FORMATS`, or `auto` to recognise it, source by source.
        group: the field whose value is a record's group.
        columns: fields to rename: name that the format expects -> name in the file.
        base: the folder that relative paths start from.
        drop: leave out records of which nothing would be learnt, rather than refuse them.

    Raises:
        DataError: a source cannot be read, or its records do not fit the task.
    """
    parts = [
        _load_one(spec, record_type, format, group, dict(columns or {}), base, drop)
        for spec in specs
    ]
    if not parts:
        raise DataError("No source of records is given.", fix="Name one under data.train.")
    return Dataset(
        [record for part in parts for record in part.records],
        [origin for part in parts for origin in part.origins],
        " + ".join(dict.fromkeys(part.format for part in parts)),
        None if group is None else [name for part in parts for name in part.groups or []],
        tuple(dict.fromkeys(field for part in parts for field in part.ignored)),
        tuple(record for part in parts for record in part.dropped),
    )


def _load_one(
    spec: str,
    record_type: type[BaseModel],
    format: str,
    group: str | None,
    columns: Mapping[str, str],
    base: Path | None,
    drop: bool,
) -> Dataset:
    found = dataset_of(
        read_source(spec, base), spec, record_type, format, group, columns, drop=drop
    )
    if not found.records:
        raise DataError(
            f"Nothing would be learnt of any of the {len(found.dropped)} records: all were left"
            " out.",
            where=spec,
            fix=f"One record of this format: {FORMATS[found.format].example}",
        )
    return found


def dataset_of(
    raw: Raw,
    spec: str,
    record_type: type[BaseModel],
    format: str = "auto",
    group: str | None = None,
    columns: Mapping[str, str] | None = None,
    *,
    drop: bool = False,
) -> Dataset:
    """Turn rows of one source into records; see `load_dataset`.

    Args:
        spec: what the source is called, for messages.
    """
    raw = Raw(*questions_of(raw.rows, raw.origins))
    groups = None if group is None else _groups(raw, group, spec)
    rows = rename(raw.rows, columns, spec) if columns else raw.rows
    if record_type is RankedTexts:
        rows, origins, places = gather(rows, raw.origins)
        raw, groups = Raw(rows, origins), None if groups is None else [groups[i] for i in places]
    if format == "auto":
        chosen = detect(rows, record_type, spec)
    elif format not in FORMATS:
        raise DataError(f"There is no format {format!r}.", where=spec, fix=suggest(format, FORMATS))
    else:
        chosen = FORMATS[format]
    if not chosen.serves(record_type):
        accepted = ", ".join(other.name for other in serving(record_type))
        raise DataError(
            f"The format {chosen.name} does not serve this task.",
            where=spec,
            fix=f"It learns from {accepted}.",
        )
    chosen = chosen.becoming(record_type)
    read = {*chosen.required, *chosen.optional, group}
    converted = convert_all(rows, raw.origins, chosen, spec, drop=drop)
    return Dataset(
        converted.records,
        [raw.origins[i] for i in converted.places],
        chosen.name,
        None if groups is None else [groups[i] for i in converted.places],
        tuple(field for field in fields_of(rows) if field not in read),
        tuple(converted.dropped),
    )


def _groups(raw: Raw, group: str, spec: str) -> list[str]:
    lacking = [i for i, row in enumerate(raw.rows) if row.get(group) in (None, "")]
    if lacking:
        first = raw.origins[lacking[0]]
        raise DataError(
            f"{len(lacking)} of {len(raw.rows)} records have no {group!r} to be grouped by "
            f"(the first is {first}).",
            where=f"{spec}: data.group",
            fix=suggest(group, fields_of(raw.rows)) if len(lacking) == len(raw.rows)
            else "Give every record its group.",
        )  # fmt: skip
    return [str(row[group]) for row in raw.rows]
