"""Texts with classes, scores and relevant documents: how they are read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tunesmith.data.dataset import load_dataset
from tunesmith.data.records import (
    LabelledText,
    MultiLabelledText,
    RankedTexts,
    RelatedTexts,
    ScoredText,
    content_key,
    text_of,
)
from tunesmith.errors import DataError
from tunesmith.quality.balance import class_balance
from tunesmith.quality.duplicates import find_duplicates


def load(folder: Path, kind: type[BaseModel], *rows: dict[str, Any], **options: Any) -> Any:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_dataset([str(folder / "a.jsonl")], kind, **options)


PAIR = {"sentence1": "a", "sentence2": "b"}


@pytest.mark.parametrize(
    ("row", "record", "format"),
    [
        ({"text": "a", "label": 1}, LabelledText(text="a", label="1"), "text_label"),
        ({"text": "a", "text_pair": "b", "label": "x"},
         LabelledText(text="a", other="b", label="x"), "text_label"),
        ({"text": "a", "text_pair": None, "label": "x"},
         LabelledText(text="a", label="x"), "text_label"),
        (PAIR | {"label": True}, LabelledText(text="a", other="b", label="true"), "pair_label"),
        ({"premise": "a", "hypothesis": "b", "label": 0},
         LabelledText(text="a", other="b", label="0"), "inference"),
        ({"text": "a", "labels": ["x", 2, "x"]},
         MultiLabelledText(text="a", labels=["x", "2"]), "text_labels"),
        ({"text": "a", "labels": '["x", "y"]'},
         MultiLabelledText(text="a", labels=["x", "y"]), "text_labels"),
        ({"text": "a", "labels": []}, MultiLabelledText(text="a", labels=[]), "text_labels"),
        ({"text": "a", "score": "3.5"}, ScoredText(text="a", score=3.5), "text_score"),
        (PAIR | {"score": 3}, ScoredText(text="a", other="b", score=3), "pair_score"),
        (PAIR | {"score": 3}, RelatedTexts(text="a", other="b", score=3), "scored_pair"),
        ({"query": "a", "documents": ["b", "c"], "relevance": [True, 0]},
         RankedTexts(text="a", documents=["b", "c"], relevance=[1, 0]), "query_documents"),
    ],
)  # fmt: skip
def test_rows_become_records(
    tmp_path: Path, row: dict[str, Any], record: BaseModel, format: str
) -> None:
    found = load(tmp_path, type(record), row)
    assert (found.records, found.format) == ([record], format)


@pytest.mark.parametrize(
    ("row", "kind", "what"),
    [
        ({"text": "a", "label": 1.5}, LabelledText, "label: found 1.5"),
        ({"text": "a", "label": "x", "text_pair": " "}, LabelledText, "text_pair: found an empty"),
        ({"text": "a", "labels": "x, y"}, MultiLabelledText, "labels: found the text 'x, y'"),
        ({"text": "a", "labels": "[x"}, MultiLabelledText, r"labels: found the text '\[x'"),
        ({"text": "a", "labels": ["x", ""]}, MultiLabelledText, r"labels\[1\]: found an empty"),
        ({"text": "a", "score": "high"}, ScoredText, "score: found the text 'high'"),
        ({"text": "a", "score": True}, ScoredText, "score: found true"),
        ({"text": "a", "score": float("nan")}, ScoredText, "score: found nan"),
        (PAIR | {"score": None}, ScoredText, "score: found null"),
        ({"query": "a", "documents": [], "relevance": []}, RankedTexts, "documents: found a list"),
        ({"query": "a", "documents": ["b"], "relevance": [1, 0]}, RankedTexts, "a list of 1"),
        ({"query": "a", "documents": ["b"], "relevance": [-1]}, RankedTexts, "0 or more"),
        ({"query": "a", "documents": ["b", 3], "relevance": [1, 0]}, RankedTexts,
         r"documents\[1\]: found 3"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(
    tmp_path: Path, row: dict[str, Any], kind: type[BaseModel], what: str
) -> None:
    with pytest.raises(DataError, match=what):
        load(tmp_path, kind, row)


def test_rows_of_one_document_each_are_gathered_by_query(tmp_path: Path) -> None:
    rows = [
        {"q": "a", "document": "b", "relevance": 1, "topic": 1},
        {"q": "x", "document": "y", "relevance": 0, "topic": 2},
        {"q": "a", "document": "c", "relevance": 0, "topic": 1},
    ]
    found = load(tmp_path, RankedTexts, *rows, columns={"query": "q"}, group="topic")
    assert found.records == [
        RankedTexts(text="a", documents=["b", "c"], relevance=[1, 0]),
        RankedTexts(text="x", documents=["y"], relevance=[0]),
    ]
    assert found.groups == ["1", "2"]
    assert [origin.rpartition(":")[2] for origin in found.origins] == ["1", "2"]


def test_two_texts_are_a_duplicate_only_where_both_are_equal() -> None:
    one, other, same = (
        LabelledText(text="A cat", other=text, label=label)
        for text, label in (("sits", "x"), ("runs", "x"), ("SITS ", "y"))
    )
    assert content_key(one) != content_key(other)
    assert content_key(one) == content_key(same)
    assert text_of(one) == "A cat\n\nsits"
    found = find_duplicates([one, other, same])
    assert (found.exact, found.contradictions) == ([[0, 2]], [[0, 2]])
    several = [MultiLabelledText(text="a", labels=labels) for labels in (["x", "y"], ["y", "x"])]
    assert find_duplicates(several).contradictions == []


def test_classes_of_a_record_that_has_several_are_each_counted() -> None:
    records = [MultiLabelledText(text=f"t{i}", labels=["x"] + ["y"] * (i < 2)) for i in range(30)]
    balance = class_balance(records, records[:10])
    assert balance.train == {"x": 30, "y": 2}
    assert any("judge by the F1 of each, or macro F1" in said for said in balance.warnings())


def test_a_split_keeps_the_share_of_rare_classes_of_records_that_have_several(
    tmp_path: Path,
) -> None:
    from tunesmith.data.splits import hold_out

    rows = [{"text": f"t{i}", "labels": ["x", *["y"] * (i % 10 == 0)]} for i in range(60)]
    data = load(tmp_path, MultiLabelledText, *rows)
    for seed in range(5):
        _, held = hold_out(data, 0.34, "test", True, (seed,))
        assert sum("y" in record.labels for record in held.records) == 2
