"""An option that is accepted is read by something: none is only there to be written."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import tunesmith
from tunesmith.recipes import BaseOptions, DataOptions, EvaluationOptions, Recipe, TrainingOptions
from tunesmith.registry import OBJECTIVES, OPERATIONS, RETAINERS, TASKS, TECHNIQUES

SOURCE = Path(tunesmith.__file__).parent


@cache
def attributes_read() -> frozenset[str]:
    """Return the name of every attribute that is read anywhere outside the recipes themselves."""
    trees = [
        ast.parse(path.read_text(encoding="utf-8"))
        for path in SOURCE.rglob("*.py")
        if path.parent.name not in ("recipes", "cli")
    ]
    return frozenset(
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    )


MODELS = {
    "recipe": Recipe,
    "data": DataOptions,
    "base": BaseOptions,
    "training": TrainingOptions,
    "evaluation": EvaluationOptions,
    **{
        f"{registry.kind} {member.name}": member.Options
        for registry in (TASKS, TECHNIQUES, OBJECTIVES, OPERATIONS, RETAINERS)
        for member in registry
    },
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_accepted_option_is_read_somewhere(model: type) -> None:
    assert set(model.model_fields) - attributes_read() == set()  # type: ignore[attr-defined]
