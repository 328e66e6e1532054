"""Reading rows: every kind of source, and errors that name the file, the line and the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.sources import read_source
from tunesmith.errors import DataError

ROWS = [{"text": "one"}, {"text": 'two, "2"\nlines'}, {"text": "drei ü 🙂"}]


def write(folder: Path, name: str, content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(data)
    return str(folder / name)


def fails(spec: str, match: str) -> DataError:
    with pytest.raises(DataError, match=match) as caught:
        read_source(spec)
    return caught.value


def test_json_lines_know_their_lines(tmp_path: Path) -> None:
    lines = [json.dumps(ROWS[0]), "", json.dumps(ROWS[1]), json.dumps(ROWS[2], ensure_ascii=False)]
    raw = read_source(write(tmp_path, "a.jsonl", "\r\n".join(lines)))
    assert raw.rows == ROWS
    assert raw.origins == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:4"]


@pytest.mark.parametrize("wrap", ["{}", '{{"about": [1, {{"x": "]"}}],\n "data": {}, "end": 1}}'])
def test_json_lists_know_the_lines_of_their_records(tmp_path: Path, wrap: str) -> None:
    text = wrap.format(json.dumps(ROWS, indent=1, ensure_ascii=False))
    raw = read_source(write(tmp_path, "a.json", text))
    assert raw.rows == ROWS
    first = 3 if wrap.startswith("{{") else 2
    assert raw.origins == [f"a.json:{first + 3 * i}" for i in range(3)]


def test_json_lines_under_the_name_json_are_read(tmp_path: Path) -> None:
    raw = read_source(write(tmp_path, "a.json", "\n".join(map(json.dumps, ROWS))))
    assert raw.rows == ROWS
    assert raw.origins[2] == "a.json:3"


def test_csv_fields_may_hold_separators_and_line_breaks(tmp_path: Path) -> None:
    text = 'text,label\none,a\n"two, ""2""\nlines",b\n\ndrei,c\n'
    raw = read_source(write(tmp_path, "a.csv", text))
    assert raw.rows[1] == {"text": 'two, "2"\nlines', "label": "b"}
    assert raw.origins == ["a.csv:2", "a.csv:3", "a.csv:6"]


def test_tsv_is_separated_by_tabs(tmp_path: Path) -> None:
    raw = read_source(write(tmp_path, "a.tsv", "text\tlabel\na, b\tc\n"))
    assert raw.rows == [{"text": "a, b", "label": "c"}]


def test_parquet_rows_are_numbered(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    raw = read_source(str(tmp_path / "a.parquet"))
    assert raw.rows == ROWS
    assert raw.origins == ["a.parquet#1", "a.parquet#2", "a.parquet#3"]


def test_a_folder_gives_one_row_for_each_text(tmp_path: Path) -> None:
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    write(tmp_path / "texts", "b.txt", "B")
    write(tmp_path / "texts" / "deep", "a.md", "A")
    write(tmp_path / "texts", "c.png", b"\x89")
    raw = read_source(str(tmp_path / "texts"))
    assert raw.rows == [{"text": "B"}, {"text": "A"}]
    assert raw.origins == ["texts/b.txt", "texts/deep/a.md"]


def test_a_relative_path_starts_from_the_base(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "A")
    assert read_source("a.txt", tmp_path).rows == [{"text": "A"}]


def test_a_byte_order_mark_is_no_part_of_the_first_field(tmp_path: Path) -> None:
    raw = read_source(write(tmp_path, "a.csv", b"\xef\xbb\xbftext\none\n"))
    assert raw.rows == [{"text": "one"}]


@pytest.mark.parametrize("spec", ["hub:owner/name:dev", "owner/name:dev"])
def test_a_hub_data_set_names_its_classes(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    asked: list[Any] = []

    def load(name: str, configuration: str | None, split: str, streaming: bool) -> Any:
        assert not streaming
        asked.append((name, configuration, split))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load)
    raw = read_source(spec)
    assert raw.rows == [{"text": "a", "label": "good"}, {"text": "b", "label": "bad"}]
    assert raw.origins == ["owner/name:dev#1", "owner/name:dev#2"]
    assert asked == [("owner/name", None, "dev")]


def test_a_hub_data_set_that_cannot_be_had_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to the hub\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert "long story" not in str(fails("hub:owner/name", "no route to the hub"))


def test_broken_json_names_its_line(tmp_path: Path) -> None:
    lines = [json.dumps({"text": str(i)}) for i in range(30)]
    lines[16] = '{"text": "broken'
    error = fails(
        write(tmp_path, "a.jsonl", "\n".join(lines)), "Line 17 is broken JSON at column 10"
    )
    assert error.where == f"{tmp_path}/a.jsonl:17"


def test_many_broken_lines_are_shown_first_and_counted(tmp_path: Path) -> None:
    error = fails(write(tmp_path, "a.jsonl", "{}\n" + "nope\n" * 9), r"6 more such lines, 9 in all")
    assert "line 4" in str(error)
    assert "line 5" not in str(error)


def test_broken_json_in_a_list_names_its_line(tmp_path: Path) -> None:
    error = fails(write(tmp_path, "a.json", '[\n{"text": 1},\n{"text": }\n]'), "line 3, column 10")
    assert error.where == f"{tmp_path}/a.json:3"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_broken_utf8_names_line_and_byte(tmp_path: Path, name: str) -> None:
    error = fails(
        write(tmp_path, name, b"ok\nxy\xffz\n"), r"byte 0xff, the 3rd byte of line 2 \(byte 5 of"
    )
    assert error.where == f"{tmp_path}/{name}:2"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "The file is empty"),
        ("a.jsonl", "\n \n", "holds no records"),
        ("a.csv", "text,label\n", "holds no records"),
        ("a.json", "[]", "holds no records"),
        ("a.jsonl", '{"a": 1}\n[1, 2]\n', r"Line 2 holds a list, expected an object"),
        ("a.json", '[{"a": 1},\n 7]', r"Line 2 holds 7 \(a number\), expected an object"),
        ("a.json", '{"rows": []}', 'whose "data" is one'),
        ("a.csv", "text,label\na,b\na,b,c\nd\n", "Line 3 has 3 fields, the header has 2; line 4"),
        ("a.csv", 'text\n"open\n', "Broken CSV"),
        ("a.csv", "text,text\na,b\n", "names 'text' twice"),
        ("a.csv", "text,\na,b\n", "column without a name"),
        ("a.csv", "text;label\na;b\n", "looks separated by ';'"),
        ("a.parquet", "PAR0", "not a readable Parquet file"),
        ("a.xlsx", "x", r"end in '\.xlsx' cannot be read"),
        ("a.jsonl", '{"a": "\\ud83d"}', "half of a character"),
        ("a.json", '[{"a": "\\ud83d"}]', "half of a character"),
    ],
)
def test_a_file_that_cannot_be_read_says_what_is_wrong(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    fails(write(tmp_path, name, content), message)


def test_a_character_written_as_two_escapes_is_whole(tmp_path: Path) -> None:
    assert read_source(write(tmp_path, "a.jsonl", '{"a": "\\ud83d\\ude00"}')).rows == [{"a": "😀"}]


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", "{}")
    assert fails(str(tmp_path / "trian.jsonl"), "does not exist").fix == (
        "Did you mean 'train.jsonl'?"
    )


def test_a_folder_without_texts_says_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "x")
    fails(str(tmp_path), r"holds no \.txt or \.md file \(found: a\.png\)")
