"""Rows come from any place of a source on, the same as when it is read whole, and in few bytes."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from tunesmith.data.shards import START, Shard, shards_of
from tunesmith.data.sources import read_source
from tunesmith.errors import DataError

ROWS = [
    {"text": f"Line {i}\nsaid “ja”, „{i}”" + " and more" * (i % 5), "label": str(i % 3)}
    for i in range(23)
]


def json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)]
    path.write_text("\ufeff" + "".join(lines[:4]) + "\n" + "".join(lines[4:]), encoding="utf-8")


def separated(mark: str) -> Callable[[Path, list[dict[str, Any]]], None]:
    def write(path: Path, rows: list[dict[str, Any]]) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=mark)
            writer.writeheader()
            writer.writerows(rows)

    return write


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)


WRITERS = {".jsonl": json_lines, ".csv": separated(","), ".tsv": separated("\t"), ".parquet": table}


def one(path: Path) -> Shard:
    (shard,) = shards_of([str(path)])
    return shard


@pytest.mark.parametrize("ending", WRITERS)
def test_rows_and_origins_are_those_of_reading_the_file_whole(ending, tmp_path):
    file = tmp_path / f"data{ending}"
    WRITERS[ending](file, ROWS)
    whole = read_source(str(file))
    found = list(one(file).rows())
    assert [row for row, _, _ in found] == whole.rows == ROWS
    assert [origin for _, origin, _ in found] == whole.origins


@pytest.mark.parametrize("ending", WRITERS)
def test_from_every_mark_on_the_rest_comes_again(ending, tmp_path):
    file = tmp_path / f"data{ending}"
    WRITERS[ending](file, ROWS)
    shard = one(file)
    whole = list(shard.rows())
    for place, (_, _, mark) in enumerate(whole):
        assert list(shard.rows(mark)) == whole[place + 1 :]


def test_a_long_text_becomes_pieces_that_end_with_a_line_and_lose_nothing(tmp_path, monkeypatch):
    file = tmp_path / "book.txt"
    text = "".join(f"Line {i} of a long book, ja.\n" for i in range(90)) + "The end"
    file.write_text(text)
    assert [row["text"] for row, _, _ in one(file).rows()] == [text]
    monkeypatch.setattr("tunesmith.data.shards._PIECE", 500)
    found = list(one(file).rows())
    assert "".join(row["text"] for row, _, _ in found) == text
    assert len(found) > 3
    assert all(row["text"].endswith("\n") for row, _, _ in found[:-1])
    origins = [origin for _, origin, _ in found]
    assert origins[0] == "book.txt"
    first = found[1][0]["text"].splitlines()[0]
    assert text.splitlines()[int(origins[1].removeprefix("book.txt:")) - 1] == first
    for place, (_, _, mark) in enumerate(found):
        assert list(one(file).rows(mark)) == found[place + 1 :]


def test_a_folder_is_a_shard_for_each_of_its_files_by_name(tmp_path):
    for name in ("b.jsonl", "a.jsonl", ".hidden.jsonl"):
        json_lines(tmp_path / name, ROWS)
    (tmp_path / "sub").mkdir()
    json_lines(tmp_path / "sub" / "c.jsonl", ROWS)
    (tmp_path / "notes.md").write_text("# Read me")
    names = [Path(shard.name).name for shard in shards_of([str(tmp_path)])]
    assert names == ["a.jsonl", "b.jsonl", "notes.md", "c.jsonl"]
    assert {shard.source for shard in shards_of([str(tmp_path)])} == {str(tmp_path)}


def test_a_data_set_of_the_hub_is_streamed_and_its_classes_are_named(monkeypatch):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = {"text": [f"t{i}" for i in range(9)], "label": [i % 2 for i in range(9)]}
    asked = []

    def load(name: str, configuration: Any, *, split: str, streaming: bool) -> Any:
        asked.append((name, configuration, split, streaming))
        return datasets.Dataset.from_dict(rows, features=features).to_iterable_dataset(3)

    monkeypatch.setattr(datasets, "load_dataset", load)
    (shard,) = shards_of(["hub:some/reviews:plain:test"])
    found = list(shard.rows())
    assert asked == [("some/reviews", "plain", "test", True)]
    assert [row["text"] for row, _, _ in found] == rows["text"]
    assert [row["label"] for row, _, _ in found][:2] == ["bad", "good"]
    assert found[4][1] == "some/reviews:test#5"
    assert list(shard.rows(found[4][2])) == found[5:]


BROKEN = [
    ("broken.jsonl", '{"text": "a"}\n{"text": \n', "broken.jsonl:2", "Line 2 is broken JSON"),
    ("list.jsonl", '{"text": "a"}\n[1]\n', "list.jsonl:2", "expected an object"),
    ("ragged.csv", "text,label\na,b\nc\n", "ragged.csv:3", "Line 3 has 1 fields"),
    ("open.csv", 'text,label\na,b\n"c,d\n', "open.csv:3", "Broken CSV"),
    ("twice.csv", "text,text\na,b\n", "twice.csv:1", "names 'text' twice"),
    ("no.parquet", "not a table", "no.parquet", "not a readable Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "where", "what"), BROKEN)
def test_what_cannot_be_read_is_named_with_its_line(name, content, where, what, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=what) as caught:
        list(one(tmp_path / name).rows())
    assert str(caught.value.where).endswith(where)


def test_broken_utf8_is_named_with_its_line_and_byte(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    with pytest.raises(DataError, match=r"byte 0xe9 \(byte 24 of the file\)") as caught:
        list(one(tmp_path / "latin.jsonl").rows())
    assert str(caught.value.where).endswith("latin.jsonl:2")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("data.json", "[]", "cannot be streamed"),
        ("data.jsonl", "", "The file is empty"),
        ("pictures/a.png", "x", "holds no file that can be streamed"),
    ],
)
def test_what_cannot_be_streamed_is_refused(name, content, what, tmp_path):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    spec = file.parent if "/" in name else file
    with pytest.raises(DataError, match=what):
        shards_of([str(spec)])


def test_a_file_that_is_not_there_is_named_with_what_is_near(tmp_path):
    json_lines(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(DataError, match=r"Did you mean 'train.jsonl'\?"):
        shards_of([str(tmp_path / "trian.jsonl")])


@pytest.mark.parametrize("ending", WRITERS)
def test_reading_takes_as_little_memory_for_a_large_file_as_for_a_small_one(ending, tmp_path):
    peaks = []
    for count in (2_000, 12_000):
        file = tmp_path / f"{count}{ending}"
        rows = [{"text": f"{i} " + "word " * 60, "label": "a"} for i in range(count)]
        WRITERS[ending](file, rows)
        del rows
        tracemalloc.start()
        assert sum(1 for _ in one(file).rows(START)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 2**20
