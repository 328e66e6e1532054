"""The side-by-side benchmark's cells: what is run, and that every recipe is a valid one."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.techniques import CANDIDATES, JOBS, cells, filled

from tunesmith.recipes.load import parse_recipe
from tunesmith.registry import TECHNIQUES
from tunesmith.runs.members import make_task, make_technique


def test_every_technique_of_the_registry_is_a_candidate() -> None:
    assert {one.options["name"] for one in CANDIDATES.values()} == set(TECHNIQUES.names())


def test_repurpose_is_left_out_where_no_head_is_learnt() -> None:
    assert not [one for _, one in cells(["instruct"], None) if one.options["name"] == "repurpose"]
    assert "repurpose" in [one.title for _, one in cells(["classification, encoder"], None)]


@pytest.mark.parametrize(
    ("job", "title"), [(job, candidate.title) for job, candidate in cells(list(JOBS), None)]
)
def test_the_recipe_of_a_cell_is_valid(job: str, title: str, tmp_path: Path) -> None:
    candidate = CANDIDATES[title]
    recipe = parse_recipe(filled(JOBS[job], candidate, tmp_path))

    assert make_technique(recipe, make_task(recipe)).name == candidate.options["name"]
    assert recipe.training.learning_rate == candidate.learning_rate


def test_a_job_measures_no_more_of_the_test_file_than_it_says(tmp_path: Path) -> None:
    test = filled(JOBS["instruct"], CANDIDATES["lora"], tmp_path)["data"]["test"]

    assert len(Path(test).read_text().splitlines()) == JOBS["instruct"].test_lines
