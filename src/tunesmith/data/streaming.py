"""Windows of records from shards that are read on and on, however much they hold.

    shards ──Stream.window(position)──> Window(records, the position behind it)

A window is so many rows in the order of their shards; behind the last shard the first comes again.
Rows of one document each that answer one query are one record: a window ends behind the last of
them, so such rows must stand together.
From one position always the same window comes, so that a run can be gone on with. Each is checked
as records of a file are. Nothing is kept from one window to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tunesmith.data.columns import lifted
from tunesmith.data.dataset import Dataset, dataset_of
from tunesmith.data.labelled import query_of
from tunesmith.data.records import RankedTexts
from tunesmith.data.shards import START, Mark, Shard, shards_of
from tunesmith.data.sources import Raw, Row
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from tunesmith.recipes.data import DataOptions

_HEAD = 256
"""Rows at the beginning of a source by which its format is recognised."""


@dataclass(frozen=True)
class Position:
    """Where a window begins.

    Attributes:
        passes: how often all shards were read before.
        shard: which one it is in.
        byte, number: see `shards.Mark`.
    """

    passes: int = 0
    shard: int = 0
    byte: int = 0
    number: int = 0

    def numbers(self) -> tuple[int, ...]:
        """Return what tells this position from all others."""
        return tuple(asdict(self).values())


@dataclass(frozen=True)
class Window:
    """Some records, and the position behind them."""

    data: Dataset
    after: Position


_OF_QUERIES = ("query", "document", "documents")

_Found = tuple[str, Row, str, Position]
"""A row: its source, itself, where it stands, and the position behind it."""


class Stream:
    """The records of several sources, window by window.

    Args:
        record_type: what the task learns from.
        options: the recipe's `data`.
        base: the folder that relative paths start from.

    Raises:
        DataError: a source does not exist, or cannot be streamed.
    """

    def __init__(
        self, record_type: type[BaseModel], options: DataOptions, base: Path | None = None
    ) -> None:
        self.shards: Sequence[Shard] = shards_of(options.train, base)
        self._record_type = record_type
        self._options = options
        self._formats: dict[str, str] = {}

    def window(self, position: Position) -> Window:
        """Read the window that begins at a position; it ends with the last shard at the latest.

        Raises:
            DataError: a record cannot be read or does not fit the task; or there is none at all.
        """
        rows = self._rows(position)
        taken = list(islice(rows, self._options.window))
        if not taken:
            raise DataError(
                "There are no records to be streamed.",
                where=self.shards[position.shard].name,
                fix="Give it some records.",
            )
        following = next(rows, None)
        while following is not None and self._of_one_record(taken[-1], following):
            taken.append(following)
            following = next(rows, None)
        after = Position(passes=position.passes + 1) if following is None else taken[-1][3]
        by_source = groupby(taken, lambda row: row[0])
        return Window(_joined([self._records(name, list(rows)) for name, rows in by_source]), after)

    def _of_one_record(self, one: _Found, other: _Found) -> bool:
        """Whether two rows of a source become one record (see `labelled.gather`)."""
        if self._record_type is not RankedTexts or one[0] != other[0]:
            return False
        queries = [query_of(self._renamed(row)) for row in (one[1], other[1])]
        return queries[0] is not None and queries[0] == queries[1]

    def _renamed(self, row: Row) -> Row:
        columns = self._options.columns
        names = {wanted: theirs for wanted, theirs in columns.items() if wanted in _OF_QUERIES}
        [found] = lifted([row], names.values())
        return {**found, **{w: found[theirs] for w, theirs in names.items() if theirs in found}}

    def _rows(self, position: Position) -> Iterator[_Found]:
        for number in range(position.shard, len(self.shards)):
            shard = self.shards[number]
            begun = Mark(position.byte, position.number) if number == position.shard else START
            for row, origin, mark in shard.rows(begun):
                after = replace(position, shard=number, byte=mark.byte, number=mark.number)
                yield shard.source, row, origin, after

    def _records(self, source: str, found: Sequence[_Found]) -> Dataset:
        raw = Raw([row for _, row, _, _ in found], [origin for _, _, origin, _ in found])
        return self._read(raw, source, self._format(source), self._options.unlearnable == "drop")

    def _format(self, source: str) -> str:
        """The format of a source, told once by its beginning, wherever a window begins."""
        if source not in self._formats:
            shard = next(shard for shard in self.shards if shard.source == source)
            head = list(islice(shard.rows(), _HEAD))
            raw = Raw([row for row, _, _ in head], [origin for _, origin, _ in head])
            self._formats[source] = self._read(raw, source, self._options.format, True).format
        return self._formats[source]

    def _read(self, raw: Raw, source: str, format: str, drop: bool) -> Dataset:
        columns: Any = self._options.columns
        return dataset_of(raw, source, self._record_type, format, None, columns, drop=drop)


def _joined(parts: Sequence[Dataset]) -> Dataset:
    return Dataset(
        [record for part in parts for record in part.records],
        [origin for part in parts for origin in part.origins],
        " + ".join(dict.fromkeys(part.format for part in parts)),
        None,
        tuple(dict.fromkeys(field for part in parts for field in part.ignored)),
        tuple(record for part in parts for record in part.dropped),
    )
