"""What the user asks for: the recipe's schema, and reading it with lines and suggestions."""

from tunesmith.recipes.choice import ObjectiveChoice, TaskChoice, TechniqueChoice
from tunesmith.recipes.data import DataOptions
from tunesmith.recipes.frozen_base import BaseOptions
from tunesmith.recipes.json_schema import recipe_schema
from tunesmith.recipes.load import load_recipe, parse_recipe
from tunesmith.recipes.schema import EvaluationOptions, Recipe
from tunesmith.recipes.training import TrainingOptions

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
