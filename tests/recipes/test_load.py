"""Every problem of a recipe is named with its file, line, key, and what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.errors import RecipeError
from tunesmith.recipes import load_recipe

pytestmark = pytest.mark.usefixtures("members")

BASE = "model: some-model\ntask: instruct\ndata: {train: train.jsonl}\n"

Write = Callable[[str], str]


def message(write: Write, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(text), overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("added", "place", "suggestion"),
    [
        ("trainin:\n  epochs: 1\n", "recipe.yaml:4: trainin", "'training'"),
        ("training:\n  epoch: 1\n", "recipe.yaml:5: training.epoch", "'epochs'"),
        ("evaluation: {metrc: x}\n", "recipe.yaml:4: evaluation.metrc", "'metric'"),
        ("technique:\n  name: lora\n  rnak: 8\n", "recipe.yaml:6: technique.rnak", "'rank'"),
        ("technique: lroa\n", "recipe.yaml:4: technique", "'lora'"),
        ("technique: {name: lroa}\n", "recipe.yaml:4: technique.name", "'lora'"),
        ("objective:\n  name: token_likelihood\n  smothing: 0.1\n", ":6:", "'smoothing'"),
        ("training: {schedule: cosin}\n", "recipe.yaml:4: training.schedule", "'cosine'"),
    ],
)
def test_a_typo_is_answered_with_line_key_and_the_nearest_right_word(
    write: Write, added: str, place: str, suggestion: str
) -> None:
    said = message(write, BASE + added)
    assert place in said
    assert f"Did you mean {suggestion}?" in said


def test_a_typo_in_a_section_of_a_members_options_is_answered(write: Write) -> None:
    text = (
        "model: m\ndata: {train: train.jsonl}\n"
        "task:\n  name: instruct\n  nested:\n    treshold: 0.3\n"
    )
    said = message(write, text)
    assert "recipe.yaml:6: task.nested.treshold" in said
    assert "'threshold'" in said


def test_an_option_in_the_wrong_section_is_told_its_right_place(write: Write) -> None:
    assert "training.learning_rate" in message(write, BASE + "learning_rate: 1e-4\n")
    assert "technique.rank" in message(write, BASE + "training: {rank: 8}\n")


@pytest.mark.parametrize(
    ("added", "what"),
    [
        ("training: {learning_rate: .nan}", "finite number, not nan"),
        ("training: {learning_rate: .inf}", "finite number, not inf"),
        ("training: {learning_rate: fast}", "a number, not 'fast'"),
        ("training: {learning_rate: -1}", "greater than 0, not -1"),
        ("training: {epochs: true}", "a number, not true"),
        ("training: {batch_size: 1.5}", "a whole number, not 1.5"),
        ("training: {batch_size: '8'}", "a whole number, not '8'"),
        ("training: {packing: 1}", "true or false, not 1"),
        ("training: 3", "a section of keys and values, not 3"),
        (
            "technique: [lora]",
            "Must be the name of a technique, or its name and options, not ['lora'].",
        ),
        ("technique: null", "or its name and options, not empty (null)."),
        ("technique: false", "or its name and options, not false."),
        ("objective: 3", "Must be the name of an objective, or its name and options, not 3."),
        ("technique: {name: lora, rank: 0}", "greater than or equal to 1, not 0"),
        ("technique: {name: lora, targets: 3}", "'all-linear' or a list, not 3"),
        ("technique: {name: lora, rank: '8'}", "a whole number, not '8'"),
        ("technique: {rank: 8}", "'name' is missing"),
        ("training: {epochs: 1, max_steps: 5}", "Both max_steps and epochs are set"),
        ("training: {epochs: null}", "Both epochs and max_steps are null"),
        ("training: {patience: 3}", "patience needs validations"),
        ("training: {keep_best: true}", "keep_best needs validations"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(write: Write, added: str, what: str) -> None:
    said = message(write, f"{BASE}{added}\n")
    assert said.startswith("recipe.yaml:4: ")
    assert what in said


def test_a_missing_option_is_named_with_what_it_is_for(write: Write) -> None:
    said = message(write, "task: instruct\ndata: {train: train.jsonl}\n")
    assert "model: 'model' is missing" in said
    said = message(write, "model: m\ntask: ranking\ndata: {train: train.jsonl}\n")
    assert "recipe.yaml:2: task.column" in said
    assert "column of the score" in said


def test_all_problems_are_named_at_once(write: Write) -> None:
    said = message(write, BASE + "training:\n  epoch: 1\n  seed: -1\n")
    assert "2 things are wrong" in said
    assert "recipe.yaml:5: training.epoch" in said
    assert "recipe.yaml:6: training.seed" in said


def test_a_missing_file_is_named_with_its_line_and_the_nearest_name(write: Write) -> None:
    said = message(write, "model: m\ntask: instruct\ndata:\n  test: 0.5\n  train: trian.jsonl\n")
    assert "recipe.yaml:5: data.train" in said
    assert "'train.jsonl'" in said


def test_one_missing_file_of_several_is_named_with_its_own_line(write: Write) -> None:
    said = message(
        write, "model: m\ntask: instruct\ndata:\n  train:\n    - train.jsonl\n    - more.jsonl\n"
    )
    assert "recipe.yaml:6: data.train.1" in said


def test_a_missing_model_file_is_named(write: Write) -> None:
    said = message(write, BASE.replace("some-model", "./model.gguf"))
    assert "recipe.yaml:1: model: There is no model at './model.gguf'" in said


@pytest.mark.parametrize("spec", ["tatsu-lab/alpaca", "owner/name:test", "hub:owner/name"])
def test_the_name_of_a_hub_data_set_stays_as_it_is(write: Write, spec: str) -> None:
    recipe = load_recipe(write(BASE), [f"data.train='{spec}'"])
    assert recipe.data.train == [spec]


def test_paths_start_at_the_recipes_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(BASE)
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    recipe = load_recipe("../recipe.yaml")
    assert recipe.data.train == [str(tmp_path / "train.jsonl")]


def test_a_model_folder_beside_the_recipe_is_found(write: Write, tmp_path: Path) -> None:
    (tmp_path / "some-model").mkdir()
    (tmp_path / "some-model" / "config.json").write_text("{}")
    assert load_recipe(write(BASE)).model == str(tmp_path / "some-model")


def test_a_folder_in_place_of_a_recipe_points_at_the_file_in_it(
    write: Write, tmp_path: Path
) -> None:
    write(BASE)
    with pytest.raises(RecipeError, match=r"folder, not a recipe.*recipe\.yaml"):
        load_recipe(tmp_path)


def test_a_recipe_that_is_not_there_is_answered_with_the_nearest(write: Write) -> None:
    write(BASE)
    with pytest.raises(RecipeError, match=r"no such recipe.*'recipe\.yaml'"):
        load_recipe("recipes.yaml")


def test_a_recipe_that_is_no_utf8_is_answered_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"model: m\ntask: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"latin\.yaml:2: This is not UTF-8"):
        load_recipe(tmp_path / "latin.yaml")


@pytest.mark.usefixtures("write")
def test_a_mapping_is_a_recipe_too(tmp_path: Path) -> None:
    recipe = load_recipe(
        {
            "model": "m",
            "task": {"name": "instruct", "max_new_tokens": 5},
            "data": {"train": tmp_path / "train.jsonl"},
            "technique": {"name": "lora", "targets": ("a", "b")},
        }
    )
    assert recipe.task.model_dump()["max_new_tokens"] == 5
    assert recipe.technique.model_dump()["targets"] == ["a", "b"]


def test_a_mapping_that_is_wrong_is_answered_with_the_key() -> None:
    with pytest.raises(RecipeError, match=r"recipe: training\.epoch: .*'epochs'"):
        load_recipe(
            {"model": "m", "task": "instruct", "data": {"train": "."}, "training": {"epoch": 1}}
        )


def test_a_section_whose_lines_are_all_comments_has_its_defaults(write: Write) -> None:
    assert load_recipe(write(BASE + "training:\n  # epochs: 3\n")).training.epochs == 1.0


def test_max_steps_takes_the_place_of_the_default_of_epochs(write: Write) -> None:
    assert load_recipe(write(BASE + "training: {max_steps: 5}\n")).training.epochs is None
