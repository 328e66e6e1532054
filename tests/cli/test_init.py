"""The starter folder: complete, valid, never on top of something."""

from __future__ import annotations

import json

import pytest

from tunesmith.cli.init import starters
from tunesmith.recipes import load_recipe
from tunesmith.registry import TASKS


def test_there_is_a_starter_for_every_task() -> None:
    assert starters() == list(TASKS.names())


@pytest.mark.parametrize("task", starters())
def test_a_starter_is_a_valid_recipe_of_its_task(command, tmp_path, task) -> None:
    folder = tmp_path / "new folder"
    said = command("init", str(folder), "--task", task)
    assert said.code == 0
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.task.name == task
    own = ["requests.jsonl", "topics.jsonl"] if task == "multitask" else ["train.jsonl"]
    assert recipe.data.train == [str(folder / name) for name in own]
    assert json.loads((folder / "recipe.schema.json").read_text())["title"] == "Tunesmith recipe"
    assert f"tunesmith train '{folder}/recipe.yaml'" in said.out


@pytest.mark.parametrize("task", sorted(set(starters()) - {"multitask"}))
def test_every_sample_record_is_one_of_the_task(command, tmp_path, task) -> None:
    from tunesmith.data.dataset import load_dataset

    command("init", str(tmp_path / "new"), "--task", task)
    data = load_dataset([str(tmp_path / "new" / "train.jsonl")], TASKS.get(task).Record)
    assert len(data.records) >= 20


@pytest.mark.parametrize("model", ["Qwen/Qwen3-0.6B", "a: b # c", "no", "1e5", "it's"])
def test_any_models_name_is_written_so_that_it_is_read_back(command, tmp_path, model) -> None:
    command("init", str(tmp_path / "new"), "--model", model)
    assert load_recipe(tmp_path / "new" / "recipe.yaml").model == model


def test_an_option_that_is_commented_out_may_be_switched_on(command, tmp_path) -> None:
    command("init", str(tmp_path / "new"))
    path = tmp_path / "new" / "recipe.yaml"
    names = ("validate_every", "patience", "keep_best", "validation")
    text = path.read_text()
    for name in names:
        text = text.replace(f"# {name}:", f"{name}:")
    path.write_text(text)
    recipe = load_recipe(path)
    assert recipe.training.patience == 3
    assert recipe.data.validation == 0.1


def test_a_folder_that_holds_something_is_left_alone(command, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    said = command("init", str(tmp_path))
    assert said.code == 2
    assert "not an empty folder" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_task_is_answered_with_the_nearest(command, tmp_path) -> None:
    said = command("init", str(tmp_path / "new"), "--task", "clasification")
    assert said.code == 2
    assert "'classification'" in said.err
    assert not (tmp_path / "new").exists()
