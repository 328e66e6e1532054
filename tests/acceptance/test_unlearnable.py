"""Records of which nothing would be learnt: refused, or left out by name where the recipe asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.jobs import ANSWERS, CLASSES, TEXTS, lines, recipe

SILENT = {"prompt": "Say nothing", "completion": " "}


def job(folder: Path, rows: list[Any], model: Path, **sections: str) -> None:
    (folder / "train.jsonl").write_text(lines(rows))
    data = {"data": "{train: train.jsonl, unlearnable: drop}"}
    (folder / "recipe.yaml").write_text(recipe(model=model, **{**data, **sections}))


@pytest.mark.parametrize(
    ("rows", "sections", "family"),
    [
        ([*ANSWERS[:2], SILENT, *ANSWERS[2:]], {}, "llama"),
        ([*TEXTS[:2], {"text": ""}, *TEXTS[2:]], {"task": "language_modeling"}, "llama"),
        (
            [*CLASSES[:2], {"text": " ", "label": "good"}, *CLASSES[2:]],
            {"task": "classification", "technique": "full"},
            "bert",
        ),
    ],
)
def test_check_counts_and_names_what_is_left_out(here, command, tiny, rows, sections, family):
    job(here, rows, tiny(family), **sections)
    said = command("check", "recipe.yaml", "--json")
    assert said.code == 0, said.err
    [dropped] = said.document["dropped"]
    assert dropped["origin"] == "train.jsonl:3"
    kept = sum(said.document[part]["records"] for part in ("train", "test"))
    assert kept == len(rows) - 1


def test_a_run_is_trained_and_measured_again_without_them(here, command, tiny) -> None:
    job(here, [SILENT, *ANSWERS, SILENT | {"prompt": "b"}], tiny("llama"))
    said = command("train", "recipe.yaml", "--name", "x", "--json")
    assert said.code == 0, said.err
    assert "left out, as nothing of them would be learnt: 2 (train.jsonl:1, train.jsonl:27)" in (
        " ".join(said.err.split())
    )
    summary = json.loads((here / "runs/x/summary.json").read_text())
    assert summary["data"]["dropped"] == 2
    assert "2 left out" in (here / "runs/x/report.html").read_text()
    again = command("evaluate", "x", "--json")
    assert again.code == 0, again.err
    assert again.document["records"] == said.document["records"]


def test_a_record_of_which_no_answer_fits_is_left_out_where_asked(here, command, tiny) -> None:
    def chat(row: dict[str, str], system: str) -> dict[str, object]:
        said = {"system": system, "user": row["prompt"], "assistant": row["completion"]}
        return {"messages": [{"role": role, "content": text} for role, text in said.items()]}

    rows = [chat(row, "Talk." if place else "Talk at length. " * 5)
            for place, row in enumerate(ANSWERS)]  # fmt: skip
    job(here, rows, tiny("llama"), task="{name: instruct, max_length: 70}")
    refused = command("check", "recipe.yaml", "--set", "data.unlearnable=error")
    assert refused.code == 2
    assert "train.jsonl:1: Nothing that is learnt is left of it within 70 tokens" in refused.err
    assert "Or leave out records of which nothing would be learnt" in refused.err
    said = command("check", "recipe.yaml", "--json")
    assert [record["origin"] for record in said.document["dropped"]] == ["train.jsonl:1"]


def test_where_all_would_be_left_out_it_is_an_error(here, command, tiny) -> None:
    job(here, [SILENT | {"prompt": str(i)} for i in range(9)], tiny("llama"))
    said = command("check", "recipe.yaml")
    assert said.code == 2
    assert "Nothing would be learnt of any of the 9 records" in said.err
