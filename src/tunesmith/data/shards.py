"""Reads rows from any place of a source on, a few at a time, so that it need not fit anywhere.

    JSON lines, CSV, TSV   found again by bytes      a file is opened and read on from there
    Parquet                by records                row groups before it are passed over
    texts                  by bytes                  a long one becomes pieces of about a megabyte
    hub:owner/name         by records                streamed by `datasets`

A source is made of shards: a file is one, a folder has one for each file in it. Where a reading
stopped is a `Mark`; from a mark on the same rows come again. What rows mean is not known here.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith.data.hub import load_hub, name_classes
from tunesmith.data.sources import TEXT_SUFFIXES, Row, check_header, locate, row_of_line
from tunesmith.errors import DataError, RunError

_PIECE = 2**20
_BATCH = 256


@dataclass(frozen=True)
class Mark:
    """A place within a shard.

    Attributes:
        byte: from the beginning of a file that is read by bytes; else 0.
        number: lines (of other kinds: records) before it.
    """

    byte: int = 0
    number: int = 0


START = Mark()
Reading = Iterator[tuple[Row, str, Mark]]
"""Rows, where each stands, and the mark behind it."""


@dataclass(frozen=True)
class Shard:
    """One file, or one data set of the hub.

    Attributes:
        name: its path, or `hub:owner/name`.
        size: in bytes; None where that is not known.
        source: the source that it belongs to, as the recipe names it.
    """

    name: str
    size: int | None
    source: str

    def rows(self, mark: Mark = START) -> Reading:
        """Yield the rows from a mark on.

        Raises:
            DataError: a row cannot be read; names the line.
        """
        if self.name.startswith("hub:"):
            return _hub(self.name.removeprefix("hub:"), mark)
        path = Path(self.name)
        return _of_file(path, READERS[path.suffix.lower()], mark)


def shards_of(specs: Sequence[str], base: Path | None = None) -> list[Shard]:
    """Return the shards of several sources, in order; of a folder by name.

    Args:
        specs: files, folders, data sets of the hub, as `sources.read_source` takes them.

    Raises:
        DataError: one does not exist, is empty, or cannot be read piece by piece.
    """
    shards = [shard for spec in specs for shard in _shards(spec, base)]
    empty = next((shard.name for shard in shards if shard.size == 0), None)
    if empty is not None:
        raise DataError("The file is empty.", where=empty, fix="Give it some records.")
    return shards


def _shards(spec: str, base: Path | None) -> Iterator[Shard]:
    found = locate(spec, base)
    if isinstance(found, str):
        yield Shard(f"hub:{found}", None, spec)
        return
    for file in _files(found):
        yield Shard(str(file), file.stat().st_size, spec)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.suffix.lower() not in READERS:
            raise DataError(
                f"Files that end in {path.suffix or 'nothing'!r} cannot be streamed.",
                where=str(path),
                fix=f"Use one of {', '.join(READERS)}, or leave out data.streaming.",
            )
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    found = [file for file in files if file.suffix.lower() in READERS]
    if not found:
        raise DataError(
            f"The folder holds no file that can be streamed ({', '.join(READERS)}).",
            where=str(path),
            fix="Put the data there, or name another folder.",
        )
    return found


def _of_file(path: Path, reader: Callable[[Path, Mark], Reading], mark: Mark) -> Reading:
    try:
        yield from reader(path, mark)
    except OSError as error:
        raise DataError(
            f"The file cannot be read: {error.strerror or error}.",
            where=str(path),
            fix="Check its permissions.",
        ) from error


class _Lines:
    """The lines of a file as text, and how far it has been read.

    Attributes:
        mark: behind the line that was given last.
    """

    def __init__(self, file: BinaryIO, path: Path, mark: Mark) -> None:
        self._file, self._path = file, path
        self.mark = mark
        file.seek(mark.byte)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        before = self.mark
        self.mark = Mark(before.byte + len(line), before.number + 1)
        if not before.byte:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"Broken UTF-8: byte 0x{line[error.start]:02x} (byte {before.byte + error.start} of"
                " the file) is not valid text.",
                where=f"{self._path}:{self.mark.number}",
                fix="Save the file as UTF-8 (for example with `iconv -f latin1 -t utf-8`).",
            ) from error


def _json_lines(path: Path, mark: Mark) -> Reading:
    with path.open("rb") as file:
        lines = _Lines(file, path, mark)
        for line in lines:
            if not line.strip():
                continue
            number = lines.mark.number
            try:
                row = row_of_line(line)
            except ValueError as error:
                raise DataError(
                    f"Line {number} {error}.",
                    where=f"{path}:{number}",
                    fix="Each line must be one JSON object.",
                ) from None
            yield row, f"{path.name}:{number}", lines.mark


def _comma_separated(path: Path, mark: Mark) -> Reading:
    return _table_of_text(path, mark, ",")


def _tab_separated(path: Path, mark: Mark) -> Reading:
    return _table_of_text(path, mark, "\t")


def _table_of_text(path: Path, mark: Mark, separator: str) -> Reading:
    csv.field_size_limit(2**31 - 1)
    with path.open("rb") as file:
        lines = _Lines(file, path, START)
        header = next(csv.reader(lines, delimiter=separator, strict=True), [])
        check_header(path, header, separator)
        if mark != START:
            lines = _Lines(file, path, mark)
        reader = csv.reader(lines, delimiter=separator, strict=True)
        while True:
            number = lines.mark.number + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(
                    f"Broken CSV: {error}.",
                    where=f"{path}:{number}",
                    fix="Close every quotation mark, and double one that stands inside a field"
                    ' ("").',
                ) from error
            if not fields:
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"Line {number} has {len(fields)} fields, the header has {len(header)}.",
                    where=f"{path}:{number}",
                    fix="Put fields that hold the separator or a line break in quotes.",
                )
            row = dict(zip(header, fields, strict=True))
            yield row, f"{path.name}:{number}", lines.mark


def _parquet(path: Path, mark: Mark) -> Reading:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, memory_map=True) as table:
            first = 0
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if first + rows > mark.number:
                    for place, row in _rows_of_group(table, group, first, mark.number):
                        yield row, f"{path.name}#{place + 1}", Mark(0, place + 1)
                first += rows
    except pyarrow.ArrowException as error:
        raise DataError(
            f"This is not a readable Parquet file: {str(error).splitlines()[0]}",
            where=str(path),
            fix="Write it again, or convert it to JSON lines.",
        ) from error


def _rows_of_group(table: Any, group: int, first: int, begin: int) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a group, whose first is row `first` of the file, from row `begin` on."""
    for batch in table.iter_batches(_BATCH, row_groups=[group]):
        skipped = min(max(begin - first, 0), batch.num_rows)
        yield from enumerate(batch.slice(skipped).to_pylist(), start=first + skipped)
        first += batch.num_rows


def _text(path: Path, mark: Mark) -> Reading:
    """Yield a text; a long one in pieces that end with a line."""
    with path.open("rb") as file:
        lines = _Lines(file, path, mark)
        begun, held, size = mark, [], 0
        for line in lines:
            held.append(line)
            size = lines.mark.byte - begun.byte
            if size >= _PIECE:
                yield {"text": "".join(held)}, _named(path, begun), lines.mark
                begun, held = lines.mark, []
        if held:
            yield {"text": "".join(held)}, _named(path, begun), lines.mark


def _named(path: Path, begun: Mark) -> str:
    return path.name if begun == START else f"{path.name}:{begun.number + 1}"


def _hub(spec: str, mark: Mark) -> Reading:
    table, name = load_hub(spec, streaming=True)
    rows = table.skip(mark.number) if mark.number else table
    for number, row in enumerate(_fetched(rows, name), start=mark.number + 1):
        given = dict(row)
        name_classes([given], table.features)
        yield given, f"{name}#{number}", Mark(0, number)


def _fetched(rows: Iterable[Any], name: str) -> Iterator[Any]:
    """Give the rows on; they are fetched as they are read, and the network may fail.

    Raises:
        RunError: the next rows cannot be had.
    """
    try:
        yield from rows
    except Exception as error:  # the hub client raises many kinds; each means "cannot be had"
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"The next records of {name} cannot be had from the hub: {said}",
            where=f"hub:{name}",
            fix="When the network is back, go on with `tunesmith train --resume`.",
        ) from error


READERS: dict[str, Callable[[Path, Mark], Reading]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".parquet": _parquet,
    **dict.fromkeys(TEXT_SUFFIXES, _text),
}
"""How to read a file from a mark on, by its ending."""
