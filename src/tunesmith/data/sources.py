"""Reads rows from wherever a recipe's `data` points, and remembers where each row came from.

    "train.jsonl"                 one JSON object a line           origins train.jsonl:17
    "train.json"                  a list, or {"data": [...]}       origins train.json:17
    "train.csv", "train.tsv"      a header line, then rows         origins train.csv:17
    "train.parquet"               a table                          origins train.parquet#17
    "train.conll"                 one word a line with its tag     origins train.conll:17
    "texts/", "book.txt"          .txt and .md files, one a row    origins texts/a.txt
    "hub:owner/name[:split]"      a data set of the hub            origins owner/name:train#17

A row is a plain dict. What it means is not known here: `formats` recognises that. A file that
cannot be read is a `DataError` that names the file, the line and, for broken UTF-8, the byte.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tunesmith.data.conll import sentences
from tunesmith.data.hub import load_hub, name_classes
from tunesmith.data.turns import describe_value
from tunesmith.errors import DataError

Row = dict[str, Any]

TEXT_SUFFIXES = (".txt", ".md")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN = 3


@dataclass(frozen=True)
class Raw:
    """Rows as they were read; `origins[i]` says where row i stands, as `train.jsonl:17`."""

    rows: list[Row]
    origins: list[str]


def read_source(spec: str, base: Path | None = None) -> Raw:
    """Read all rows of one source.

    Args:
        spec: a file, a folder of texts, or a data set of the hub (see the module's table). The
            hub is meant with `hub:` in front, or where nothing local has that name and it looks
            like `owner/name` without a file's ending.
        base: the folder that a relative path starts from; the working directory if None.

    Raises:
        DataError: it does not exist, is empty, or cannot be read; names the line.
    """
    found = locate(spec, base)
    if isinstance(found, str):
        return _read_hub(found)
    return _read_folder(found) if found.is_dir() else _read_file(found)


def locate(spec: str, base: Path | None = None) -> Path | str:
    """Return the path of a source that is here, or the name of one of the hub.

    Raises:
        DataError: it is neither.
    """
    if spec.startswith("hub:"):
        return spec.removeprefix("hub:")
    path = (base or Path()) / Path(spec).expanduser()
    if path.exists():
        return path
    name = spec.split(":")[0]
    if _HUB_NAME.fullmatch(name) and Path(name).suffix.lower() not in READERS:
        return spec
    raise DataError("This file does not exist.", where=str(path), fix=_nearby(path))


def _read_file(path: Path) -> Raw:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"Files that end in {path.suffix or 'nothing'!r} cannot be read.",
            where=str(path),
            fix=f"Use one of {', '.join(READERS)}, a folder of texts, or hub:owner/name.",
        )
    try:
        if path.stat().st_size == 0:
            raise DataError("The file is empty.", where=str(path), fix="Give it some records.")
        raw = reader(path)
    except OSError as error:
        raise DataError(
            f"The file cannot be read: {error.strerror or error}.",
            where=str(path),
            fix="Check its permissions.",
        ) from error
    if not raw.rows:
        raise DataError("The file holds no records.", where=str(path), fix="Give it some records.")
    return raw


def _decode(path: Path) -> str:
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise DataError(
            f"Broken UTF-8: byte 0x{data[error.start]:02x}, the {_ordinal(column)} byte of line "
            f"{line} (byte {error.start} of the file), is not valid text.",
            where=f"{path}:{line}",
            fix="Save the file as UTF-8 (for example with `iconv -f latin1 -t utf-8`).",
        ) from error


def _read_jsonl(path: Path) -> Raw:
    return _json_lines(path, _decode(path))


def _json_lines(path: Path, text: str) -> Raw:
    rows: list[Row] = []
    origins: list[str] = []
    broken: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(row_of_line(line))
        except ValueError as error:
            broken.append((number, str(error)))
            continue
        origins.append(f"{path.name}:{number}")
    if broken:
        raise _broken_lines(path, broken, "Each line must be one JSON object.")
    return Raw(rows, origins)


def row_of_line(line: str) -> Row:
    """Return the row that a line of JSON holds.

    Raises:
        ValueError: says what is wrong with it.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is broken JSON at column {error.colno}: {error.msg}") from None
    if not isinstance(row, dict):
        raise ValueError(f"holds {describe_value(row)}, expected an object {{...}}")
    if _HALF.search(line) and not _is_text(row):
        raise ValueError("holds half of a character (a lone \\ud800 to \\udfff)")
    return row


def _read_json(path: Path) -> Raw:
    text = _decode(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _json_lines(path, text)  # JSON lines under the name .json, as hubs often have it
        raise DataError(
            f"Broken JSON at line {error.lineno}, column {error.colno}: {error.msg}.",
            where=f"{path}:{error.lineno}",
            fix="Mend that place; a JSON checker shows it.",
        ) from error
    start = _start_of_list(text, content)
    if start is None:
        raise DataError(
            f"The file holds {describe_value(content)}; expected a list of records, or an object "
            'whose "data" is one.',
            where=str(path),
            fix='Write [{...}, {...}] or {"data": [{...}, {...}]}.',
        )
    rows: list[Row] = []
    origins: list[str] = []
    wrong: list[tuple[int, str]] = []
    halves = _HALF.search(text)
    for line, row in _elements(text, start):
        if isinstance(row, dict) and (not halves or _is_text(row)):
            rows.append(row)
            origins.append(f"{path.name}:{line}")
        elif isinstance(row, dict):
            wrong.append((line, "holds half of a character (a lone \\ud800 to \\udfff)"))
        else:
            wrong.append((line, f"holds {describe_value(row)}, expected an object {{...}}"))
    if wrong:
        raise _broken_lines(path, wrong, "Each element of the list must be one object.")
    return Raw(rows, origins)


def _is_text(row: Row) -> bool:
    """Return whether all that a row holds can be written as UTF-8."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _start_of_list(text: str, content: Any) -> int | None:
    """Return where the list of records opens in `text`."""
    if isinstance(content, list):
        return text.index("[")
    if not (isinstance(content, dict) and isinstance(content.get("data"), list)):
        return None
    decoder = json.JSONDecoder()
    index = text.index("{") + 1
    while True:
        key, index = decoder.raw_decode(text, _skip(text, index, ","))
        index = _skip(text, index, ":")
        if key == "data":
            return index
        _, index = decoder.raw_decode(text, index)


def _elements(text: str, start: int) -> Iterator[tuple[int, Any]]:
    """Yield each element of the JSON list that opens at `start`, with the line it begins on."""
    decoder = json.JSONDecoder()
    index, line, counted = _skip(text, start + 1, ""), 1, 0
    while text[index] != "]":
        line += text.count("\n", counted, index)
        counted = index
        element, index = decoder.raw_decode(text, index)
        yield line, element
        index = _skip(text, index, ",")


def _skip(text: str, index: int, mark: str) -> int:
    """Return the index after white space, one optional `mark`, and white space again."""
    while text[index].isspace() or (mark and text[index] == mark):
        index += 1
    return index


def _read_csv(path: Path) -> Raw:
    return _read_table_of_text(path, ",")


def _read_tsv(path: Path) -> Raw:
    return _read_table_of_text(path, "\t")


def _read_table_of_text(path: Path, separator: str) -> Raw:
    reader = csv.reader(io.StringIO(_decode(path), newline=""), delimiter=separator, strict=True)
    rows: list[Row] = []
    origins: list[str] = []
    ragged: list[tuple[int, str]] = []
    csv.field_size_limit(2**31 - 1)
    try:
        header = next(reader, [])
        check_header(path, header, separator)
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                ragged.append((line, f"has {len(fields)} fields, the header has {len(header)}"))
            elif fields:
                rows.append(dict(zip(header, fields, strict=True)))
                origins.append(f"{path.name}:{line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"Broken CSV: {error}.",
            where=f"{path}:{reader.line_num}",
            fix='Close every quotation mark, and double one that stands inside a field ("").',
        ) from error
    if ragged:
        raise _broken_lines(
            path, ragged, "Put fields that hold the separator or a line break in quotes."
        )
    return Raw(rows, origins)


def check_header(path: Path, header: Sequence[str], separator: str) -> None:
    """Raise DataError where the header of a table of text cannot be right."""
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or not all(name.strip() for name in header):
        what = f"names {twice[0]!r} twice" if twice else "has a column without a name"
        raise DataError(f"The header {what}.", where=f"{path}:1", fix="Give each column a name.")
    if len(header) == 1 and (other := [mark for mark in ",;\t|" if mark in header[0]]):
        raise DataError(
            f"The header is one column, {header[0]!r}, which looks separated by {other[0]!r}.",
            where=f"{path}:1",
            fix=f"A {path.suffix} file is separated by {separator!r}: save it so.",
        )


def _read_parquet(path: Path) -> Raw:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(
            f"This is not a readable Parquet file: {str(error).splitlines()[0]}",
            where=str(path),
            fix="Write it again, or convert it to JSON lines.",
        ) from error
    return Raw(rows, [f"{path.name}#{number}" for number in range(1, len(rows) + 1)])


def _read_conll(path: Path) -> Raw:
    found = sentences(_decode(path))
    if found.broken:
        raise _broken_lines(
            path,
            found.broken,
            "Each line is a word and, in its last column, its tag; an empty line ends a sentence.",
        )
    rows: list[Row] = [dict(row) for row in found.rows]
    return Raw(rows, [f"{path.name}:{line}" for line in found.lines])


def _read_text(path: Path) -> Raw:
    return Raw([{"text": _decode(path)}], [path.name])


def _read_folder(path: Path) -> Raw:
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    texts = [file for file in files if file.suffix.lower() in TEXT_SUFFIXES]
    if not texts:
        found = ", ".join(file.name for file in files[:_SHOWN]) or "nothing"
        raise DataError(
            f"The folder holds no {' or '.join(TEXT_SUFFIXES)} file (found: {found}).",
            where=str(path),
            fix="Name a data file in it, or put the texts there.",
        )
    rows = [{"text": _decode(file)} for file in texts]
    return Raw(rows, [f"{path.name}/{file.relative_to(path).as_posix()}" for file in texts])


def _read_hub(spec: str) -> Raw:
    """Read `owner/name[:configuration][:split]` with `datasets`; the split is `train` if unsaid."""
    table, name = load_hub(spec)
    rows = [dict(row) for row in table]
    name_classes(rows, table.features)
    if not rows:
        raise DataError("The data set holds no records.", where=f"hub:{spec}")
    return Raw(rows, [f"{name}#{number}" for number in range(1, len(rows) + 1)])


READERS: dict[str, Callable[[Path], Raw]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".conll": _read_conll,
    ".bio": _read_conll,
    ".iob": _read_conll,
    ".txt": _read_text,
    ".md": _read_text,
}
"""How to read a file, by its ending."""


def _broken_lines(path: Path, broken: Sequence[tuple[int, str]], fix: str) -> DataError:
    first = "; ".join(f"line {number} {what}" for number, what in broken[:_SHOWN])
    more = len(broken) - _SHOWN
    count = f" ({more} more such lines, {len(broken)} in all)" if more > 0 else ""
    return DataError(
        f"{first[0].upper()}{first[1:]}{count}.", where=f"{path}:{broken[0][0]}", fix=fix
    )


def _ordinal(number: int) -> str:
    teens = 10 < number % 100 < 14
    ending = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _nearby(path: Path) -> str:
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return "Check the path; it starts from the folder of the recipe."
