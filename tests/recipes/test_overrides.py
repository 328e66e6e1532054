"""`--set` changes a recipe as an edit of the file would, under the same checks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tunesmith.errors import RecipeError
from tunesmith.recipes import Recipe, load_recipe
from tunesmith.recipes.document import override, read_document

pytestmark = pytest.mark.usefixtures("members")

BASE = "model: m\ntask: instruct\ndata: {train: train.jsonl}\n"


@pytest.fixture
def load(write: Callable[[str], str]) -> Callable[..., Recipe]:
    return lambda *overrides, added="": load_recipe(write(BASE + added), overrides)


def test_a_value_is_read_as_yaml(load: Callable[..., Recipe]) -> None:
    recipe = load("training.learning_rate=1e-4", "training.packing=false", "data.columns={text: t}")
    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.packing is False
    assert recipe.data.columns == {"text": "t"}


def test_an_empty_value_is_null(load: Callable[..., Recipe]) -> None:
    assert load("evaluation.metric=", added="evaluation: {metric: x}\n").evaluation.metric is None


def test_an_option_of_a_member_named_in_short_keeps_the_member(load: Callable[..., Recipe]) -> None:
    recipe = load("task.max_new_tokens=3", "technique.rank=4", added="technique: lora\n")
    assert recipe.task.model_dump()["max_new_tokens"] == 3
    assert recipe.technique.model_dump()["rank"] == 4


def test_an_option_of_the_default_technique_needs_no_name(load: Callable[..., Recipe]) -> None:
    assert load("technique.rank=4").technique.model_dump()["rank"] == 4


def test_a_whole_section_is_replaced(load: Callable[..., Recipe]) -> None:
    recipe = load("technique=full", added="technique: {name: lora, rank: 4}\n")
    assert recipe.technique.model_dump() == {"name": "full"}


def test_the_last_override_wins(load: Callable[..., Recipe]) -> None:
    assert load("training.seed=1", "training.seed=2").training.seed == 2


def test_a_deeper_section_that_is_absent_is_made(load: Callable[..., Recipe]) -> None:
    recipe = load("task.nested.threshold=0.25")
    assert recipe.task.model_dump()["nested"]["threshold"] == 0.25


def test_an_item_of_a_list_is_reached_by_its_number(load: Callable[..., Recipe]) -> None:
    added = "surgery: [{name: drop, layers: [0, 1]}, {name: freeze, names: [a]}]\n"
    recipe = load("surgery.0.layers=[2]", "surgery.1.names=[b, c]", added=added)
    assert [item.model_dump() for item in recipe.surgery] == [
        {"name": "drop", "layers": [2]},
        {"name": "freeze", "names": ["b", "c"]},
    ]
    assert load("surgery.0.layers.1=3", added=added).surgery[0].model_dump()["layers"] == [0, 3]
    assert load("surgery.1=drop", "surgery.1.layers=[4]", added=added).surgery[1].name == "drop"


def test_the_number_behind_the_last_adds_an_item(load: Callable[..., Recipe]) -> None:
    recipe = load("surgery.0.name=drop", "surgery.0.layers=[1]", "surgery.1.name=freeze",
                  "surgery.1.names.0=a")  # fmt: skip
    assert [item.name for item in recipe.surgery] == ["drop", "freeze"]


def test_what_is_wrong_in_an_item_is_named_with_its_number(load: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match=r"--set surgery.0.layer=1.*no option 'layer' here"):
        load("surgery.0.layer=1", added="surgery: [{name: drop, layers: [0]}]\n")


def test_an_override_leaves_the_document_as_it_is() -> None:
    document = read_document("surgery: [{name: drop, layers: [0]}]\n", "r.yaml")
    changed = override(document, "surgery.0.layers=[1]", {"surgery": None})
    assert document.value == {"surgery": [{"name": "drop", "layers": [0]}]}
    assert changed.value == {"surgery": [{"name": "drop", "layers": [1]}]}
    assert changed.place(("surgery", 0, "layers")) == "--set surgery.0.layers=[1]"
    assert changed.place(("surgery", 0, "name")) == "r.yaml:1"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epohs=3", "--set training.epohs=3: There is no option 'epohs' here."),
        ("technique.rank=0", "--set technique.rank=0: Must be greater than or equal to 1"),
        ("training.learning_rate=.nan", "Must be a finite number"),
        ("training.seed=[1", "--set training.seed=[1: This is not valid YAML"),
        ("data.test=none.jsonl", "--set data.test=none.jsonl: There is no file 'none.jsonl'"),
        ("technique={name: lora, rnk: 3}", "technique.rnk: There is no option 'rnk'"),
        ("training", "written as key=value"),
        ("=3", "written as key=value"),
        ("training..seed=3", "written as key=value"),
        ("model.size=3", "model holds 'm', which has no parts"),
        ("data.train.first=x", "data.train holds 'train.jsonl', which has no parts"),
        ("surgery.1.layers=[0]", "surgery is a list of 0, and has no item '1'"),
        ("surgery.0.layers=[0]", "surgery.0.name: 'name' is missing"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_written(
    load: Callable[..., Recipe], override: str, said: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load(override)
    assert said in str(caught.value)


def test_an_override_that_contradicts_the_file_is_an_error(load: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match=r"max_steps=5: Both max_steps and epochs"):
        load("training.max_steps=5", added="training: {epochs: 2}\n")
    recipe = load("training.max_steps=5", "training.epochs=null", added="training: {epochs: 2}\n")
    assert recipe.training.max_steps == 5
