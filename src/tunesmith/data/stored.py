"""Encoded records in an Arrow file: written once, memory-mapped ever after.

    Encoded, Encoded, … ──table_of──> RecordBatch ──write──> file ──open──> StoredExamples

A row is an example: the token ids of all its streams end to end, its classes likewise, and as JSON
what is small (which streams, the weights as runs of equal ones, label, cut). Nothing is rounded:
what comes back is equal to what was put in. `StoredExamples` makes an example when it is asked for,
so that the memory taken is that of the pages that are read; `ChainedExamples` puts others behind
them without reading any. It knows no task and no fingerprint.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow
from numpy.typing import NDArray

from tunesmith.data.batch import Cut, Encoded, EncodedStream

_SCHEMA = pyarrow.schema(
    [
        ("ids", pyarrow.list_(pyarrow.int32())),
        ("classes", pyarrow.list_(pyarrow.int32())),
        ("about", pyarrow.string()),
    ]
)


def table_of(examples: Sequence[Encoded]) -> pyarrow.RecordBatch:
    """Return some examples as rows."""
    return pyarrow.RecordBatch.from_pydict(
        {
            "ids": [_joined(stream.ids for stream in e.streams.values()) for e in examples],
            "classes": [_joined(s.classes or () for s in e.streams.values()) for e in examples],
            "about": [json.dumps(_about(example)) for example in examples],
        },
        schema=_SCHEMA,
    )


def write_tables(file: Path, tables: Iterable[pyarrow.RecordBatch]) -> None:
    """Write rows to a file as they come; no more than one table of them is in memory."""
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_file(sink, _SCHEMA) as writer:
        for table in tables:
            writer.write_batch(table)


def open_tables(file: Path) -> list[pyarrow.RecordBatch]:
    """Map the rows of a file into memory; nothing is read yet."""
    reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(file), "r"))
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]


class StoredExamples(Sequence[Encoded]):
    """Examples that are made of rows when they are asked for.

    Attributes:
        lengths: tokens of each example, over all its streams.
        nbytes: bytes of all rows.
    """

    def __init__(self, tables: Sequence[pyarrow.RecordBatch]) -> None:
        self._tables = [_Rows(table) for table in tables if table.num_rows]
        self._ends = [0, *accumulate(len(table) for table in self._tables)]
        self.lengths: list[int] = [n for table in self._tables for n in table.lengths.tolist()]
        self.nbytes: int = sum(table.nbytes for table in tables)

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        number, place = _found(index, self._ends)
        return self._tables[number].example(place)


class ChainedExamples(Sequence[Encoded]):
    """Several sequences of examples as one; each example is asked of its own sequence.

    Attributes:
        lengths: tokens of each example, over all its streams.
    """

    def __init__(self, *parts: Sequence[Encoded]) -> None:
        self._parts = parts
        self._ends = [0, *accumulate(map(len, parts))]
        self.lengths: list[int] = [length for part in parts for length in lengths_of(part)]

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        number, place = _found(index, self._ends)
        return self._parts[number][place]


def lengths_of(examples: Sequence[Encoded]) -> list[int]:
    """Return the tokens of each example; stored ones are not made for it."""
    if isinstance(examples, StoredExamples | ChainedExamples):
        return examples.lengths
    return [example.length for example in examples]


def _found(index: int, ends: Sequence[int]) -> tuple[int, int]:
    """Return which of several parts an index lies in, and where in it."""
    place = index + ends[-1] if index < 0 else index
    if not 0 <= place < ends[-1]:
        raise IndexError(index)
    number = bisect_right(ends, place) - 1
    return number, place - ends[number]


class _Rows:
    """One table, its numbers as arrays that share its memory."""

    def __init__(self, table: pyarrow.RecordBatch) -> None:
        self._ids, self._ids_at = _flat(table.column("ids"))
        self._classes, self._classes_at = _flat(table.column("classes"))
        self._about = table.column("about")
        self.lengths = np.diff(self._ids_at)

    def __len__(self) -> int:
        return len(self._about)

    def example(self, row: int) -> Encoded:
        about: dict[str, Any] = json.loads(self._about[row].as_py())
        ids = self._ids[self._ids_at[row] : self._ids_at[row + 1]].tolist()
        classes = self._classes[self._classes_at[row] : self._classes_at[row + 1]].tolist()
        streams: dict[str, EncodedStream] = {}
        for name, tokens, runs, is_called, more in about.pop("streams"):
            own, ids = ids[:tokens], ids[tokens:]
            called = None
            if is_called:
                called, classes = tuple(classes[:tokens]), classes[tokens:]
            streams[name] = EncodedStream(tuple(own), _expanded(runs), called, **_frozen(more))
        cut = about.pop("cut", None)
        return Encoded(streams, cut=Cut(**cut) if cut else None, **_frozen(about))


def _flat(column: Any) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The values of a column of lists end to end, and where each list begins."""
    return column.values.to_numpy(), column.offsets.to_numpy()


def _joined(parts: Iterable[Sequence[int]]) -> list[int]:
    return [value for part in parts for value in part]


def _about(example: Encoded) -> dict[str, Any]:
    """All of an example but its ids and classes; what has its default is left out."""
    about = _stated(example, {"streams"})
    about["streams"] = [
        [
            name,
            len(stream.ids),
            _runs(stream.weights),
            stream.classes is not None,
            _stated(stream, {"ids", "weights", "classes"}),
        ]
        for name, stream in example.streams.items()
    ]
    return about


def _stated(part: Encoded | EncodedStream, apart: set[str]) -> dict[str, Any]:
    """Fields that do not have their default, as JSON data."""
    values = {f.name: (getattr(part, f.name), f.default) for f in fields(part)}
    return {
        name: asdict(value) if isinstance(value, Cut) else value
        for name, (value, default) in values.items()
        if name not in apart and value != default
    }


def _runs(weights: Sequence[float] | None) -> list[tuple[float, int]] | None:
    if weights is None:
        return None
    return [(weight, len(list(equal))) for weight, equal in groupby(weights)]


def _expanded(runs: Sequence[tuple[float, int]] | None) -> tuple[float, ...] | None:
    if runs is None:
        return None
    return tuple(weight for weight, count in runs for _ in range(count))


def _frozen(value: Any) -> Any:
    """JSON has lists where an example has tuples."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
