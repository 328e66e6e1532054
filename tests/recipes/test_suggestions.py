"""For every option that there is, in every section and every member, a typo finds it again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.errors import RecipeError
from tunesmith.recipes import (
    BaseOptions,
    DataOptions,
    EvaluationOptions,
    Recipe,
    TrainingOptions,
    parse_recipe,
)
from tunesmith.registry import OBJECTIVES, TASKS, TECHNIQUES

_BASE: dict[str, Any] = {"model": "m", "task": "instruct", "data": {"train": "."}}
_SECTIONS: dict[str, Any] = {
    "data": DataOptions,
    "base": BaseOptions,
    "training": TrainingOptions,
    "evaluation": EvaluationOptions,
}


def _options() -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """Return each option: the recipe in which it may stand, and its path."""
    found = [(_BASE, (name,)) for name in Recipe.model_fields]
    for section, model in _SECTIONS.items():
        found += [(_BASE, (section, name)) for name in model.model_fields]
    for registry in (TASKS, TECHNIQUES, OBJECTIVES):
        kind = registry.kind
        for member in registry:
            recipe = {**_BASE, kind: {"name": member.name}}
            found += [(recipe, (kind, name)) for name in member.Options.model_fields]
    return found


OPTIONS = _options()


@pytest.mark.parametrize(
    ("recipe", "path"),
    OPTIONS,
    ids=[f"{recipe.get(path[0]) if len(path) > 1 else ''}{path}" for recipe, path in OPTIONS],
)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=5, deadline=None
)
@given(data=st.data())
def test_a_typo_in_any_option_is_suggested_back(
    recipe: dict[str, Any], path: tuple[str, ...], data: st.DataObject
) -> None:
    *section, name = path
    at = data.draw(st.integers(0, len(name) - 1))
    typo = name[:at] + name[at] + name[at:]
    override = f"{'.'.join([*section, typo])}=1"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe, [override])
    assert f"There is no option {typo!r} here. Did you mean {name!r}?" in str(caught.value)


def test_a_typo_within_a_list_of_operations_is_suggested_back() -> None:
    with pytest.raises(RecipeError, match=r"surgery\.0\.layer: .* Did you mean 'layers'\?"):
        parse_recipe({**_BASE, "surgery": [{"name": "drop", "layer": [1]}]})
