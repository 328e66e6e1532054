"""Writes a source of records again, without some rows and with some changed, in its own format.

    train.jsonl ──write_again(dropped, changed)──> new.jsonl     kept lines as they were

Rows are counted as `sources` reads them. What stays is not touched: of JSON lines, CSV and CoNLL
files the very characters are kept, of Parquet the types, of a folder the files. JSON is laid out
anew with its own indentation. The source is only read. Why a row goes is not known here.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunesmith.data.conll import sentences
from tunesmith.data.questions import asked_in, paragraphs_of
from tunesmith.data.sources import TEXT_SUFFIXES
from tunesmith.errors import DataError, RunError

Row = Mapping[str, Any]
Dropped = Collection[int]
Changed = Mapping[int, Row]

_MARK = "\ufeff"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV, errno.EMLINK}


def refuse_change(source: Path) -> str | None:
    """Return why rows of this source can only be dropped, not changed; None where they can."""
    if _kind(source) == ".conll":
        return "the words of a CoNLL file each have a line of their own"
    return None


def write_again(source: Path, target: Path, dropped: Dropped, changed: Changed) -> None:
    """Write `source` to `target`, which is not there yet.

    Args:
        dropped: places of rows that are left out, counted as they are read.
        changed: the new row at each place that is changed.

    Raises:
        OSError: the target cannot be written.
    """
    kind = _kind(source)
    if kind == "folder":
        _write_folder(source, target, dropped, changed)
    elif kind == ".parquet":
        _write_parquet(source, target, dropped, changed)
    else:
        data = source.read_bytes().decode("utf-8")
        text = _WRITERS[kind](data.removeprefix(_MARK), dropped, changed)
        mark = _MARK if data.startswith(_MARK) else ""
        target.write_bytes((mark + text).encode("utf-8"))


@contextmanager
def new_place(target: Path) -> Iterator[Path]:
    """Give a place beside `target` to write; what is there when the block ends becomes `target`.

    Nothing that exists is ever replaced, also not what appears meanwhile. When the block raises,
    nothing is left behind.

    Raises:
        DataError: there is something at `target`.
        RunError: the place cannot be written.
    """
    aside: Path | None = None
    try:
        refuse_existing(target)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        yield aside / target.name
        made = aside / target.name
        for file in [made] if made.is_file() else [f for f in made.rglob("*") if f.is_file()]:
            _flush(file)
        _put(made, target)
    except FileExistsError:
        refuse_existing(target)
        raise
    except OSError as error:
        raise RunError(
            f"It could not be written: {error.strerror or error}.",
            where=str(target),
            fix="Make room, or choose a folder that is there and may be written.",
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def refuse_existing(target: Path) -> None:
    """Refuse to write where something is.

    Raises:
        DataError: it is.
    """
    if target.exists() or target.is_symlink():
        raise DataError(
            "It exists already, and nothing is overwritten.",
            where=str(target),
            fix="Choose another name, or move it away.",
        )


def _put(made: Path, target: Path) -> None:
    if made.is_file():
        try:
            os.link(made, target)  # fails where there is something, unlike a rename
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    refuse_existing(target)
    os.rename(made, target)


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    with suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


def _kind(source: Path) -> str:
    """Return which writer a source needs."""
    if source.is_dir():
        return "folder"
    suffix = source.suffix.lower()
    same = {".ndjson": ".jsonl", ".tsv": ".csv", ".bio": ".conll", ".iob": ".conll", ".md": ".txt"}
    return same.get(suffix, suffix)


def _json_lines(text: str, dropped: Dropped, changed: Changed) -> str:
    lines = [line for line in text.split("\n") if line.strip()]
    return "".join(
        f"{_as_json(changed[place]) + _return(line) if place in changed else line}\n"
        for place, line in enumerate(lines)
        if place not in dropped
    )


def _return(line: str) -> str:
    return "\r" if line.endswith("\r") else ""


def _as_json(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False)


def _json(text: str, dropped: Dropped, changed: Changed) -> str:
    try:
        content = json.loads(text)
    except json.JSONDecodeError:  # JSON lines under this name; one alone would be no list
        lines = _json_lines(text, dropped, changed)
        return lines if lines.count("\n") > 1 else f"[{lines.strip()}]\n"
    rows = content if isinstance(content, list) else content["data"]
    kept = [changed.get(i, row) for i, row in enumerate(rows) if i not in dropped]
    whole = kept if isinstance(content, list) else {**content, "data": kept}
    indented = re.match(r"\s*[\[{]\r?\n([ \t]+)", text)
    indent = indented[1] if indented else None
    return json.dumps(whole, ensure_ascii=text.isascii(), indent=indent) + "\n"


def _csv(text: str, dropped: Dropped, changed: Changed) -> str:
    lines = list(io.StringIO(text, newline=""))
    separator = _separator(lines[0])
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(iter(lines), delimiter=separator, strict=True)
    header = next(reader)
    ending = "\r\n" if lines[0].endswith("\r\n") else "\n"
    written, begin, place = ["".join(lines[: reader.line_num])], reader.line_num, 0
    for fields in reader:
        record, begin = "".join(lines[begin : reader.line_num]), reader.line_num
        if not fields:
            continue
        if place in changed:
            out = io.StringIO()
            row = changed[place]
            csv.writer(out, delimiter=separator, lineterminator=ending).writerow(
                [row[name] for name in header]
            )
            record = out.getvalue()
        if place not in dropped:
            written.append(record if record.endswith(("\n", "\r")) else record + ending)
        place += 1
    return "".join(written)


def _separator(header: str) -> str:
    """A table that was read is separated by tabs if there is one in its header and no comma."""
    return "\t" if "\t" in header and "," not in header else ","


def _conll(text: str, dropped: Dropped, changed: Changed) -> str:
    """Write every sentence with the empty lines and comments before it."""
    lines = text.split("\n")
    begins = [number - 1 for number in sentences(text).lines]
    written: list[str] = []
    end = 0
    for place, begin in enumerate(begins):
        start, end = end, begin
        while end < len(lines) and lines[end].strip() and not lines[end].startswith("-DOCSTART-"):
            end += 1
        if place not in dropped:
            written += lines[start:end]
    return "\n".join([*written, *lines[end:]])


def _text(text: str, dropped: Dropped, changed: Changed) -> str:
    return str(changed[0]["text"]) if 0 in changed else text


def _write_folder(source: Path, target: Path, dropped: Dropped, changed: Changed) -> None:
    files = sorted(p for p in source.rglob("*") if p.is_file() and not p.name.startswith("."))
    texts = [file for file in files if file.suffix.lower() in TEXT_SUFFIXES]
    target.mkdir()
    for place, file in enumerate(texts):
        if place in dropped:
            continue
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if place in changed:
            copy.write_bytes(str(changed[place]["text"]).encode("utf-8"))
        else:
            shutil.copyfile(file, copy)


def _write_parquet(source: Path, target: Path, dropped: Dropped, changed: Changed) -> None:
    import pyarrow
    from pyarrow import parquet

    table = parquet.read_table(source)
    kept = [place for place in range(table.num_rows) if place not in dropped]
    for name in {name for row in changed.values() for name in row} & set(table.column_names):
        values = table.column(name).to_pylist()
        for place, row in changed.items():
            values[place] = row[name]
        field = table.schema.field(name)
        column = pyarrow.array(values, type=field.type)
        table = table.set_column(table.schema.get_field_index(name), field, column)
    parquet.write_table(table.take(pyarrow.array(kept, type=pyarrow.int64())), target)


_WRITERS: dict[str, Callable[[str, Dropped, Changed], str]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".conll": _conll,
    ".txt": _text,
}


def without_questions(
    rows: Sequence[Row], dropped: Dropped
) -> tuple[set[int], dict[int, dict[str, Any]]]:
    """Return which rows go and which change, where rows are articles that hold questions.

    Args:
        dropped: places of questions, counted over all articles as `questions_of` gives them; a
            row that is no article counts as one.
    """
    gone: set[int] = set()
    changed: dict[int, dict[str, Any]] = {}
    number = 0
    for place, row in enumerate(rows):
        paragraphs = paragraphs_of(row)
        if paragraphs is None:
            gone |= {place} if number in dropped else set()
            number += 1
            continue
        kept, lost = [], False
        for paragraph in paragraphs:
            asked = asked_in(paragraph)
            numbers = range(number, number + len(asked))
            number = numbers.stop
            staying = [q for n, q in zip(numbers, asked, strict=True) if n not in dropped]
            lost |= len(staying) < len(asked)
            if len(staying) == len(asked):
                kept.append(paragraph)
            elif staying:
                kept.append({**paragraph, "qas": staying})
        if lost and any(map(asked_in, kept)):
            changed[place] = {**row, "paragraphs": kept}
        elif lost:
            gone.add(place)
    return gone, changed
