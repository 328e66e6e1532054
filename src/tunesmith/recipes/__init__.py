"""What the user asks for: the recipe's schema, and reading it with lines and suggestions."""

from tunesmith.recipes.frozen_base import BaseOptions
from tunesmith.recipes.json_schema import recipe_schema
from tunesmith.recipes.load import load_recipe, parse_recipe
from tunesmith.recipes.schema import (
    DataOptions,
    EvaluationOptions,
    ObjectiveChoice,
    Recipe,
    TaskChoice,
    TechniqueChoice,
    TrainingOptions,
)

__all__ = [
    "BaseOptions",
    "DataOptions",
    "EvaluationOptions",
    "ObjectiveChoice",
    "Recipe",
    "TaskChoice",
    "TechniqueChoice",
    "TrainingOptions",
    "load_recipe",
    "parse_recipe",
    "recipe_schema",
]
