"""Sources written again: what stays is as it was, to the character."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tunesmith.data.questions import questions_of
from tunesmith.data.rewrite import new_place, without_questions, write_again
from tunesmith.data.sources import read_source
from tunesmith.errors import DataError, RunError

FILES = {
    "a.jsonl": '{"text": "one",  "n": 1.10}\n\n{"text": "tw\\u00f6"}\n{"text": "three"}',
    "crlf.jsonl": '{"text": "one"}\r\n{"text": "two"}\r\n{"text": "three"}\r\n',
    "a.json": '[\n  {"text": "one"},\n  {"text": "two"},\n  {"text": "three"}\n]\n',
    "data.json": '{"version": 2, "data": [{"text": "one"}, {"text": "two"}, {"text": "three"}]}',
    "lines.json": '{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n',
    "a.csv": 'text,label\n"one, with\na break",x\n\ntwo,y\nthree,"z"\n',
    "a.tsv": "text\tlabel\r\none, with\tx\r\ntwo\ty\r\nthree\tz\r\n",
    "a.conll": "-DOCSTART- O\n\n# id = 1\nAda B-PER\nwrote O\n\n# id = 2\nHe O\n\nShe O\n",
}


def rewrite(folder: Path, name: str, text: str, dropped: set[int], changed: Any = None) -> Path:
    (folder / name).write_bytes(text.encode("utf-8"))
    write_again(folder / name, folder / f"new.{name}", dropped, changed or {})
    assert (folder / name).read_bytes() == text.encode("utf-8")
    return folder / f"new.{name}"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("dropped", [set(), {0}, {1}, {2}, {0, 2}])
def test_the_rows_that_stay_are_read_as_before(tmp_path: Path, name: str, dropped: set) -> None:
    new = rewrite(tmp_path, name, FILES[name], dropped)
    before, after = read_source(str(tmp_path / name)), read_source(str(new))
    assert after.rows == [row for i, row in enumerate(before.rows) if i not in dropped]


@pytest.mark.parametrize("name", sorted(set(FILES) - {"a.conll"}))
def test_a_row_that_is_changed_stands_where_it_stood(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name].encode("utf-8"))
    rows = read_source(str(tmp_path / name)).rows
    changed = {**rows[1], "text": 'a "new", text\nwith ü'}
    new = rewrite(tmp_path, name, FILES[name], {0}, {1: changed})
    assert read_source(str(new)).rows == [changed, rows[2]]


def test_what_stays_keeps_its_characters(tmp_path: Path) -> None:
    lines = rewrite(tmp_path, "a.jsonl", FILES["a.jsonl"], {1})
    assert lines.read_text() == '{"text": "one",  "n": 1.10}\n{"text": "three"}\n'
    table = rewrite(tmp_path, "a.csv", FILES["a.csv"], {1})
    assert table.read_text() == 'text,label\n"one, with\na break",x\nthree,"z"\n'
    tabs = rewrite(tmp_path, "a.tsv", FILES["a.tsv"], {0})
    assert tabs.read_bytes() == b"text\tlabel\r\ntwo\ty\r\nthree\tz\r\n"
    words = rewrite(tmp_path, "a.conll", FILES["a.conll"], {1})
    assert words.read_text() == "-DOCSTART- O\n\n# id = 1\nAda B-PER\nwrote O\n\nShe O\n"
    listed = rewrite(tmp_path, "a.json", FILES["a.json"], set())
    assert listed.read_text() == json.dumps(json.loads(FILES["a.json"]), indent=2) + "\n"


def test_a_mark_at_the_beginning_of_a_file_stays(tmp_path: Path) -> None:
    new = rewrite(tmp_path, "a.csv", "\ufefftext,label\none,x\ntwo,y\n", {0})
    assert new.read_bytes() == b"\xef\xbb\xbftext,label\ntwo,y\n"


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    columns = {"text": ["one", "two", "three"], "label": pyarrow.array([1, 2, 3], pyarrow.int8())}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    changed = {1: {"text": "TWO", "label": 9}}
    write_again(tmp_path / "a.parquet", tmp_path / "b.parquet", {0}, changed)
    new = parquet.read_table(tmp_path / "b.parquet")
    assert new.schema.field("label").type == pyarrow.int8()
    assert new.to_pylist() == [{"text": "TWO", "label": 9}, {"text": "three", "label": 3}]


def test_a_folder_of_texts_becomes_a_folder_of_those_that_stay(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "inner").mkdir(parents=True)
    for name in ("a.txt", "b.md", "inner/c.txt", "other.png"):
        (folder / name).write_text(f"text of {name}\r\n", newline="")
    write_again(folder, tmp_path / "new", {1}, {2: {"text": "changed"}})
    files = sorted(p.relative_to(tmp_path / "new") for p in (tmp_path / "new").rglob("*.*"))
    assert [str(file) for file in files] == ["a.txt", "inner/c.txt"]
    assert (tmp_path / "new/a.txt").read_bytes() == b"text of a.txt\r\n"
    assert (tmp_path / "new/inner/c.txt").read_text() == "changed"


def test_questions_go_out_of_their_articles() -> None:
    def article(*counts: int) -> dict[str, Any]:
        paragraphs = [{"context": "c", "qas": [{"id": i} for i in range(n)]} for n in counts]
        return {"title": "t", "paragraphs": paragraphs}

    rows = [article(2, 1), article(1), {"context": "c", "question": "q", "answers": []}]
    flat, _ = questions_of(rows, ["a", "b", "c"])
    assert len(flat) == 5
    gone, changed = without_questions(rows, {2, 3})
    assert gone == {1}
    assert changed == {0: article(2)}
    assert without_questions(rows, {4}) == ({2}, {})


def test_what_of_an_article_is_no_question_stays_as_it_is() -> None:
    rows: list[dict[str, Any]] = [
        {"title": "bare", "paragraphs": [{"context": "c", "qas": []}]},
        {"title": "odd", "paragraphs": "none"},
        {"title": "mixed", "paragraphs": [{"context": "c", "qas": []},
                                          {"context": "d", "qas": ["?", {"id": 1}, {"id": 2}]}]},
    ]  # fmt: skip
    _, origins = questions_of(rows, ["a", "b", "c"])
    assert origins == ["b", "c#1", "c#2"]
    gone, changed = without_questions(rows, {2})
    assert gone == set()
    kept = [{"context": "c", "qas": []}, {"context": "d", "qas": [{"id": 1}]}]
    assert changed == {2: {"title": "mixed", "paragraphs": kept}}


@given(
    st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=8),
    st.sets(st.integers(0, 7)),
)
def test_any_texts_survive_in_a_table(tmp_path_factory, texts: list[str], dropped: set) -> None:
    folder = tmp_path_factory.mktemp("tables")
    frame = "text,n\r\n" + "".join(
        '"{}",{}\r\n'.format(text.replace('"', '""'), i) for i, text in enumerate(texts)
    )
    new = rewrite(folder, "a.csv", frame, dropped)
    if dropped >= set(range(len(texts))):
        return
    kept = [text for i, text in enumerate(texts) if i not in dropped]
    assert [row["text"] for row in read_source(str(new)).rows] == kept


def test_nothing_that_exists_is_overwritten_not_even_what_appears_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "new.txt"

    def meanwhile() -> None:
        with new_place(target) as place:
            place.write_text("ours")
            target.write_text("theirs")

    with pytest.raises(DataError, match="exists already"):
        meanwhile()
    assert target.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def half() -> None:
        with new_place(tmp_path / "new.txt") as place:
            place.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="could not be written"), new_place(tmp_path / "no/new.txt"):
        pass
