"""The recipe's JSON schema, with the options of every task, technique, objective, operation and
retainer.

    registry, option models ──recipe_schema──> JSON schema (draft 2020-12)

Editors complete and check recipes with it; the reference of recipes is generated from it.
"""

from __future__ import annotations

from typing import Any

from tunesmith.recipes.choice import (
    DEFAULT_TECHNIQUE,
    Choice,
    ObjectiveChoice,
    OperationChoice,
    RetainerChoice,
    TaskChoice,
    TechniqueChoice,
)
from tunesmith.recipes.schema import Recipe

_CHOICES: tuple[type[Choice], ...] = (
    TaskChoice,
    TechniqueChoice,
    ObjectiveChoice,
    OperationChoice,
    RetainerChoice,
)


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe; imports the option models of all members, no torch."""
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    for choice in _CHOICES:
        definitions[choice.__name__] = _choice_schema(choice, definitions)
    definitions.pop("BaseModel")  # what stood for a member's options before they were filled in
    schema["properties"]["technique"]["default"] = DEFAULT_TECHNIQUE
    definitions["DataOptions"]["properties"]["train"] = _one_or_many(
        definitions["DataOptions"]["properties"]["train"]
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Tunesmith recipe",
    }


def _one_or_many(train: dict[str, Any]) -> dict[str, Any]:
    listed = {key: train.pop(key) for key in ("type", "items", "minItems")}
    return {**train, "anyOf": [{"type": "string"}, listed]}


def _choice_schema(choice: type[Choice], definitions: dict[str, Any]) -> dict[str, Any]:
    short: list[str] = []
    members: list[dict[str, Any]] = []
    for member in choice.registry:
        options = _member_schema(choice.registry.kind, member, definitions)
        members.append(options)
        if options["required"] == ["name"]:
            short.append(member.name)
    return {
        "description": choice.__doc__,
        "oneOf": [{"type": "string", "enum": short}, *members],
    }


def _member_schema(kind: str, member: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    prefix = f"{kind}.{member.name}"
    options = member.Options.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    for name, definition in options.pop("$defs", {}).items():
        definitions[f"{prefix}.{name}"] = definition
    return {
        "title": member.name,
        "description": (member.__doc__ or "").strip().partition("\n")[0],
        "type": "object",
        "properties": {"name": {"const": member.name}, **options.get("properties", {})},
        "required": ["name", *options.get("required", [])],
        "additionalProperties": False,
    }
