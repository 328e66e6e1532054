"""Questions with answers: both ways in which SQuAD writes them, and what is wrong in a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.dataset import Dataset, load_dataset
from tunesmith.data.records import QuestionedText
from tunesmith.data.splits import hold_out
from tunesmith.errors import DataError

ROW = {
    "id": "q1",
    "context": "Ada lives in Rome.",
    "question": "Where?",
    "answers": {"text": ["Rome"], "answer_start": [13]},
}


def load(folder: Path, content: Any, name: str = "a.json") -> Dataset:
    (folder / name).write_text(json.dumps(content))
    return load_dataset([str(folder / name)], QuestionedText)


def test_rows_of_the_hub_and_objects_read_alike(tmp_path: Path) -> None:
    other = ROW | {"answers": [{"text": "Rome", "answer_start": 13}]}
    first, second = load(tmp_path, [ROW, other]).records
    assert first == second
    assert (first.answers[0].text, first.answers[0].start) == ("Rome", 13)


def test_squads_own_file_is_read_question_by_question(tmp_path: Path) -> None:
    article = {
        "title": "Ada",
        "paragraphs": [
            {
                "context": ROW["context"],
                "qas": [
                    {"id": "x", "question": "Where?", "is_impossible": False,
                     "answers": [{"text": "Rome", "answer_start": 13}]},
                    {"id": "y", "question": "When?", "is_impossible": True, "answers": [],
                     "plausible_answers": [{"text": "Ada", "answer_start": 0}]},
                ],
            },
            {"context": "Bo sings.", "qas": [
                {"question": "Who?", "answers": [{"text": "Bo", "answer_start": 0}]}]},
        ],
    }  # fmt: skip
    data = load(tmp_path, {"version": "v2.0", "data": [article]})
    assert data.format == "squad"
    assert data.origins == ["a.json:1#x", "a.json:1#y", "a.json:1#3"]
    assert [len(record.answers) for record in data.records] == [1, 0, 1]
    assert data.records[2].text == "Bo sings."


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"answers": {"text": ["Rome"], "answer_start": [12]}},
         "answers[0].answer_start: found 12 (a number), expected the place of 'Rome' in the"
         " context: it stands at 13"),
        ({"answers": {"text": ["Oslo"], "answer_start": [0]}}, "it stands nowhere in the context"),
        ({"answers": {"text": ["Rome"], "answer_start": [13, 2]}}, "a list of 1 numbers"),
        ({"answers": {"text": "Rome", "answer_start": 13}}, "answers.text: found the text 'Rome'"),
        ({"answers": [{"text": "Rome"}]}, "answers[0].answer_start: found null"),
        ({"answers": [{"text": " ", "answer_start": 3}]}, "answers[0].text: found an empty text"),
        ({"answers": ["Rome"]}, "answers[0]: found the text 'Rome', expected an object"),
        ({"answers": "Rome"}, "answers: found the text 'Rome'"),
        ({"is_impossible": True}, "expected no answer, as is_impossible says"),
        ({"context": " "}, "context: found an empty text"),
        ({"question": ""}, "question: found an empty text"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, [ROW, ROW | changes])
    assert what in caught.value.what
    assert "record 2 (a.json:1)" in caught.value.what


def test_questions_on_one_text_stay_on_one_side(tmp_path: Path) -> None:
    rows = [
        {"context": f"Text {i // 5} is here.", "question": f"Which {i}?",
         "answers": {"text": [], "answer_start": []}}
        for i in range(40)
    ]  # fmt: skip
    kept, held = hold_out(load(tmp_path, rows), 0.25, "test", True, (0,))
    assert len(held) == 10
    assert not {record.text for record in kept.records} & {record.text for record in held.records}
