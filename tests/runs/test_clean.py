"""Cleaning: only what is asked for goes, the source stays, and the log says why."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith import api
from tunesmith.console import Console
from tunesmith.errors import DataError, InputError

CHATS = [
    {"prompt": "Who wrote it?", "completion": "Ada wrote it in the year 1843."},
    {"prompt": "who wrote  it?", "completion": "Ada wrote it in the year 1843."},
    {"prompt": "What is your address?", "completion": "Write to ada@engines.org, please."},
    {"prompt": "Why?", "completion": "I'm sorry, but as an AI I cannot say."},
    {"prompt": "Nothing?", "completion": ""},
    {"prompt": "What was it for?", "completion": "It computed tables for the navy."},
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def clean(*arguments: Any, **options: Any) -> Any:
    return api.clean(*arguments, console=Console(quiet=True), **options)


def test_by_default_only_what_is_certain_goes(here: Path) -> None:
    before = write(here / "train.jsonl", CHATS).read_bytes()
    found = clean("train.jsonl", "new.jsonl")
    assert read(here / "new.jsonl") == [CHATS[i] for i in (0, 2, 3, 5)]
    assert (found.dropped, found.changed) == ({"duplicate": 1, "empty": 1}, {})
    assert found.remarks == ["No test records were given: leaks were not looked for."]
    assert (here / "train.jsonl").read_bytes() == before
    assert {path.name for path in here.iterdir()} == {"train.jsonl", "new.jsonl", "new.log.jsonl"}


def test_the_log_says_of_each_record_where_it_stood_and_why_but_not_what_it_said(
    here: Path,
) -> None:
    write(here / "train.jsonl", CHATS)
    clean("train.jsonl", "new.jsonl", drop=["duplicate", "refusal"], change=["personal"])
    head, *rest = read(here / "new.log.jsonl")
    assert (head["action"], head["records"], head["format"]) == ("read", 6, "prompt_completion")
    assert (head["drop"], head["change"]) == (["duplicate", "refusal"], ["personal"])
    assert len(head["sha256"]) == 64
    assert [(line["action"], line["origin"], line["kind"]) for line in rest] == [
        ("dropped", "train.jsonl:2", "duplicate"),
        ("changed", "train.jsonl:3", "personal"),
        ("dropped", "train.jsonl:4", "refusal"),
    ]
    assert rest[0]["reason"] == "the same as train.jsonl:1"
    assert "ada@" not in (here / "new.log.jsonl").read_text()
    assert read(here / "new.jsonl")[1]["completion"] == "Write to [EMAIL], please."
    assert CHATS[4] in read(here / "new.jsonl")


def test_what_is_not_asked_for_stays(here: Path) -> None:
    write(here / "train.jsonl", CHATS)
    found = clean("train.jsonl", "new.jsonl", drop=["refusal"])
    assert [row for row in CHATS if row not in read(here / "new.jsonl")] == [CHATS[3]]
    assert found.dropped == {"refusal": 1}


def test_of_a_recipe_training_records_that_stand_in_test_go(here: Path) -> None:
    write(here / "train.jsonl", CHATS)
    write(here / "test.jsonl", [CHATS[5], {"prompt": "Who wrote it?", "completion": "A person."}])
    recipe = "model: none\ntask: instruct\ndata: {train: train.jsonl, test: test.jsonl}\n"
    (here / "recipe.yaml").write_text(recipe)
    found = clean(here / "recipe.yaml", here / "new.jsonl", drop=["leak"])
    assert read(here / "new.jsonl") == CHATS[2:5]
    assert found.dropped == {"leak": 3}


def test_leaks_of_a_file_are_those_against_another(here: Path) -> None:
    write(here / "train.jsonl", CHATS)
    write(here / "test.jsonl", [CHATS[5]])
    clean("train.jsonl", "new.jsonl", drop=["leak"], against=["test.jsonl"])
    assert read(here / "new.jsonl") == CHATS[:5]


def test_columns_of_other_names_are_those_that_are_changed(here: Path) -> None:
    rows = [
        {"body": f"mail x{n}@engines.org {n}", "stars": n % 2, "who": "a@b.org"} for n in range(3)
    ]
    write(here / "train.jsonl", rows)
    recipe = "model: none\ntask: classification\n"
    recipe += "data: {train: train.jsonl, columns: {text: body, label: stars}}\n"
    (here / "recipe.yaml").write_text(recipe)
    clean("recipe.yaml", "new.jsonl", change=["personal"])
    assert read(here / "new.jsonl")[0] == {"body": "mail [EMAIL] 0", "stars": 0, "who": "a@b.org"}


def test_columns_within_columns_are_changed_there(here: Path) -> None:
    rows = [
        {"text": {"en": f"mail x{n}@engines.org", "fr": f"y{n}@engines.org", "id": "a@b.org"}}
        for n in range(3)
    ]
    write(here / "train.jsonl", rows)
    recipe = "model: none\ntask: seq2seq\n"
    recipe += "data: {train: train.jsonl, columns: {source: text.en, target: text.fr}}\n"
    (here / "recipe.yaml").write_text(recipe)
    clean("recipe.yaml", "new.jsonl", change=["personal"])
    changed = {"en": "mail [EMAIL]", "fr": "[EMAIL]", "id": "a@b.org"}
    assert read(here / "new.jsonl") == [{"text": changed}] * 3


def test_of_a_chain_of_records_that_are_alike_those_stay_that_are_like_none_that_stays(
    here: Path,
) -> None:
    a = " ".join(f"w{n}" for n in range(40))
    b = a.replace("w35 w36 w37 w38 w39", "o1 o2 o3 o4 o5")
    c = b.replace("w1 w2 w3 w4 w5 ", "v1 v2 v3 v4 v5 ")
    rows = [{"text": text} for text in (a, b, b.upper(), c)]
    write(here / "train.jsonl", rows)
    found = clean("train.jsonl", "new.jsonl", drop=["near_duplicate"])
    assert read(here / "new.jsonl") == [rows[0], rows[3]]
    assert found.dropped == {"near_duplicate": 2}


def test_a_record_stays_where_the_one_that_it_repeats_goes_for_another_reason(here: Path) -> None:
    plain = " ".join(f"w{n}" for n in range(40))
    rows = [{"text": f"{plain} Ask ada@engines.org"}, {"text": f"{plain} Ask Ada"}]
    write(here / "train.jsonl", rows)
    found = clean("train.jsonl", "new.jsonl", drop=["near_duplicate", "personal"])
    assert read(here / "new.jsonl") == rows[1:]
    assert found.dropped == {"personal": 1}


def test_as_many_questions_as_articles_are_not_taken_for_them(here: Path) -> None:
    def article(name: str, *asked: str) -> dict[str, Any]:
        answers = [{"text": "Ada", "answer_start": 0}]
        qas = [{"id": f"{name}{n}", "question": q, "answers": answers} for n, q in enumerate(asked)]
        return {"title": name, "paragraphs": [{"context": f"Ada wrote {name}.", "qas": qas}]}

    articles = [article("a", "Who?", "who?"), article("b")]
    (here / "squad.json").write_text(json.dumps({"version": "1.1", "data": articles}))
    found = clean("squad.json", "new.json")
    left = json.loads((here / "new.json").read_text())
    assert left == {"version": "1.1", "data": [article("a", "Who?"), article("b")]}
    assert found.dropped == {"duplicate": 1}


@pytest.fixture
def labels(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty labelled rows in a table, one of them labelled wrong, and vectors that tell."""
    draw = np.random.default_rng(0)

    def vectors(texts, *_) -> np.ndarray:
        signs = [[5.0 if "good" in text else -5.0, 1.0] for text in texts]
        return np.array(signs) + draw.normal(size=(len(texts), 2))

    monkeypatch.setattr("tunesmith.runs.clean.vectors_of", vectors)
    rows = [
        (f"{name} number {i}", int(name == "good")) for i in range(30) for name in ("good", "bad")
    ]
    rows[7] = (rows[7][0], 1 - rows[7][1])
    with (here / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return here / "train.csv"


def test_a_wrong_label_is_set_right_in_place(labels: Path, here: Path) -> None:
    found = clean("train.csv", "new.csv", change=["wrong_label"])
    assert found.changed == {"wrong_label": 1}
    old, new = (path.read_text().splitlines() for path in (labels, here / "new.csv"))
    assert [(a, b) for a, b in zip(old, new, strict=True) if a != b] == [
        ("bad number 3,1", "bad number 3,0")
    ]
    assert read(here / "new.log.jsonl")[-1]["to"] == "0"


def test_how_sure_a_label_must_be_wrong_can_be_said(labels: Path, here: Path) -> None:
    found = clean("train.csv", "new.csv", drop=["wrong_label"], sure=1.0)
    assert found.dropped == {}
    assert found.remarks == ["1 labels may be wrong as well, but less surely (--sure)."]


def test_several_sources_become_a_folder_of_files_of_their_names(here: Path) -> None:
    write(here / "a.jsonl", CHATS[:3])
    (here / "b.json").write_text(json.dumps(CHATS[:1] + CHATS[5:]))
    recipe = "model: none\ntask: instruct\ndata: {train: [a.jsonl, b.json]}\n"
    (here / "recipe.yaml").write_text(recipe)
    found = clean("recipe.yaml", "new", drop=["duplicate"])
    assert read(here / "new/a.jsonl") == [CHATS[0], CHATS[2]]
    assert json.loads((here / "new/b.json").read_text()) == CHATS[5:]
    assert [(file.records, file.dropped) for file in found.files] == [(3, 1), (2, 1)]


@pytest.mark.parametrize("taken", ["new.jsonl", "new.log.jsonl"])
def test_what_exists_is_never_overwritten(here: Path, taken: str) -> None:
    write(here / "train.jsonl", CHATS)
    (here / taken).write_text("precious")
    with pytest.raises(DataError, match="exists already"):
        clean("train.jsonl", "new.jsonl")
    assert (here / taken).read_text() == "precious"
    assert {path.name for path in here.iterdir()} == {"train.jsonl", taken}


def test_the_source_itself_cannot_be_the_target(here: Path) -> None:
    before = write(here / "train.jsonl", CHATS).read_bytes()
    with pytest.raises(DataError, match="exists already"):
        clean("train.jsonl", "./train.jsonl")
    assert (here / "train.jsonl").read_bytes() == before


def test_a_kind_that_is_not_known_is_named_with_the_nearest(here: Path) -> None:
    write(here / "train.jsonl", CHATS)
    with pytest.raises(InputError, match="Did you mean 'duplicate'"):
        clean("train.jsonl", "new.jsonl", drop=["duplicates"])
    with pytest.raises(InputError, match="no 'leak' to change"):
        clean("train.jsonl", "new.jsonl", change=["leak"])


def test_another_format_a_hub_set_and_places_in_texts_are_refused(here: Path) -> None:
    write(here / "train.jsonl", CHATS)
    with pytest.raises(DataError, match="stays in the format"):
        clean("train.jsonl", "new.csv")
    (here / "a.conll").write_text("Ada B-PER\nwrote O\n\nShe O\n")
    with pytest.raises(DataError, match="cannot be changed"):
        clean("a.conll", "b.conll", change=["personal"])
    with pytest.raises(DataError, match="no single class"):
        clean("train.jsonl", "new.jsonl", change=["wrong_label"])
    assert not list(here.glob("new*"))


def test_nothing_is_written_where_nothing_would_be_left(here: Path) -> None:
    write(here / "train.jsonl", CHATS[3:4])
    with pytest.raises(DataError, match="Every record would be dropped"):
        clean("train.jsonl", "new.jsonl", drop=["refusal"])
    assert {path.name for path in here.iterdir()} == {"train.jsonl"}
