"""The schema: what it prints loads as equal, and every option of every member is in it."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.data.formats import FORMATS
from tunesmith.recipes import DataOptions, Recipe, load_recipe, recipe_schema
from tunesmith.recipes.document import read_document
from tunesmith.registry import OBJECTIVES, OPERATIONS, RETAINERS, TASKS, TECHNIQUES

_text = st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12
) | st.sampled_from(
    ["no", "1e5", "2e-4", ".5", "0x1", "null", "~", "true", "- x", "a: b", "#", " x ", "\n", "\x85"]
)
_share = st.floats(0, 1, exclude_min=True, exclude_max=True)


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


@st.composite
def _recipes(draw: st.DrawFn) -> dict[str, Any]:
    steps = draw(st.none() | st.integers(1, 10**9))
    training = {
        "epochs": draw(st.floats(0, 10_000, exclude_min=True)) if steps is None else None,
        "max_steps": steps,
        "learning_rate": draw(st.floats(0, 10, exclude_min=True)),
        "schedule": draw(st.sampled_from(["linear", "cosine", "constant"])),
        "packing": draw(st.booleans()),
        "epsilon": draw(st.floats(0, 1, exclude_min=True)),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "validate_every": draw(st.integers(1, 100)),
        "patience": draw(_maybe(st.integers(1, 9))),
        "keep_best": draw(st.booleans()),
    }
    data = {
        "train": draw(_text | st.lists(_text, min_size=1, max_size=3)),
        "test": draw(_text | _share),
        "validation": draw(_maybe(_text | _share)),
        "group": draw(_maybe(_text)),
        "columns": draw(st.dictionaries(_text, _text, max_size=3)),
    }
    technique = {
        "name": "lora",
        "rank": draw(st.integers(1, 1024)),
        "alpha": draw(_maybe(st.floats(0, exclude_min=True, allow_infinity=False))),
        "targets": draw(st.just("all-linear") | st.lists(_text, max_size=3)),
    }
    return {
        "model": draw(_text),
        "task": {"name": "instruct", "template": draw(_maybe(_text))},
        "data": data,
        "technique": draw(st.sampled_from(["full", "lora", technique])),
        "objective": draw(st.sampled_from([None, "token_likelihood"])),
        "training": training,
        "evaluation": {"metric": draw(_maybe(_text))},
    }


@pytest.mark.usefixtures("members")
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(_recipes())
def test_what_to_yaml_prints_loads_as_the_equal_recipe(mapping: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(mapping)
    assert Recipe.model_validate(read_document(recipe.to_yaml(), "again").value) == recipe


@pytest.mark.usefixtures("members")
def test_to_yaml_prints_every_default() -> None:
    recipe = load_recipe({"model": "m", "task": "instruct", "data": {"train": "."}})
    printed = read_document(recipe.to_yaml(), "printed").value
    assert set(printed) == set(Recipe.model_fields)
    assert set(printed["training"]) == set(type(recipe.training).model_fields)
    assert printed["technique"] == {
        "name": "lora",
        "rank": 16,
        "alpha": None,
        "targets": "all-linear",
    }
    assert printed["task"]["nested"] == {"threshold": 0.5}


def test_every_record_format_can_be_named() -> None:
    assert set(get_args(DataOptions.model_fields["format"].annotation)) == {"auto", *FORMATS}


@pytest.mark.usefixtures("members")
def test_the_json_schema_offers_each_member_with_its_own_options() -> None:
    schema = recipe_schema()
    names, instruct, ranking = schema["$defs"]["TaskChoice"]["oneOf"]
    assert names["enum"] == ["instruct"]  # ranking needs an option, so its name alone will not do
    assert instruct["properties"]["name"] == {"const": "instruct"}
    assert instruct["properties"]["max_new_tokens"]["minimum"] == 1
    assert ranking["required"] == ["name", "column"]
    nested = instruct["properties"]["nested"]["$ref"]
    assert "threshold" in schema["$defs"][nested.removeprefix("#/$defs/")]["properties"]


def test_every_reference_in_the_json_schema_leads_somewhere() -> None:
    schema = recipe_schema()

    def references(part: Any) -> set[str]:
        if isinstance(part, list):
            return set().union(*map(references, part), set())
        if not isinstance(part, dict):
            return set()
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*map(references, part.values()))

    known = {f"#/$defs/{name}" for name in schema["$defs"]}
    assert references(schema) <= known


@pytest.mark.parametrize(
    "registry", [TASKS, TECHNIQUES, OBJECTIVES, OPERATIONS, RETAINERS], ids=lambda r: r.kind
)
def test_every_option_of_every_member_is_described_and_refuses_others(registry: Any) -> None:
    for member in registry:
        assert member.Options.model_config["extra"] == "forbid"
        assert member.__doc__, f"{member.name} has no docstring"
        assert "name" not in member.Options.model_fields  # it would hide the member's own name
        for name, field in member.Options.model_fields.items():
            assert field.description, f"{member.name}.{name} has no description"


def test_every_option_of_the_recipe_is_described() -> None:
    definitions = recipe_schema()["$defs"]
    for section in ("BaseOptions", "DataOptions", "TrainingOptions", "EvaluationOptions"):
        for name, field in definitions[section]["properties"].items():
            assert field.get("description"), f"{section}.{name} has no description"
