"""A member of a registry and its own options, as a recipe writes it.

    `lora`, or {name: lora, rank: 16} ──Choice──> name, options       typed by the member itself

What a task, a technique or an objective takes belongs to that member's own option model, which is
found through the registry; importing it imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, Field, SerializeAsAny, model_serializer, model_validator
from pydantic_core import PydanticCustomError, to_json

from tunesmith.errors import suggest
from tunesmith.recipes import other_words
from tunesmith.recipes.section import STRICT
from tunesmith.registry import OBJECTIVES, OPERATIONS, RETAINERS, TASKS, TECHNIQUES, Registry

DEFAULT_TECHNIQUE = "lora"
_ALSO_NAME = ("type", "method", "peft_type")  # what other programs call `name`


class Choice(BaseModel):
    """One member of a registry and its own options.

    In a recipe it is written as a name (`lora`) or with options (`{name: lora, rank: 16}`).
    """

    model_config = STRICT
    registry: ClassVar[Registry[Any]]

    name: str = Field(description="which one")
    options: SerializeAsAny[BaseModel] = Field(description="its own options")

    @model_validator(mode="before")
    @classmethod
    def _look_up(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        kind = cls.registry.kind
        given = {"name": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping):
            raise PydanticCustomError(
                "choice_type",
                "Must be the name of {kind}, or its name and options",
                {"kind": f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"},
            )
        if isinstance(given.get("options"), BaseModel):
            return dict(given)
        if "name" not in given:
            told = {"key": "name", "fix": cls._meant(given)}
            raise PydanticCustomError("missing", "Field required", told)
        name = given["name"]
        if name not in cls.registry.names():
            raise PydanticCustomError(
                "unknown_member",
                "There is no {kind} called {name}",
                {
                    "kind": kind,
                    "name": repr(name),
                    "key": None if isinstance(value, str) else "name",
                    "fix": other_words.member(kind, str(name))
                    or suggest(str(name), cls.registry.names()),
                },
            )
        options = {key: item for key, item in given.items() if key != "name"}
        # Through JSON, so that a YAML list may fill a tuple while `"3"` still fills no integer.
        model: type[BaseModel] = cls.registry.get(name).Options
        return {"name": name, "options": model.model_validate_json(_as_json(options), strict=True)}

    @classmethod
    def _meant(cls, given: Mapping[str, Any]) -> str:
        """Say how to write the member that stands under a word of other programs."""
        word = next((word for word in _ALSO_NAME if isinstance(given.get(word), str)), None)
        if word is None:
            return ""
        kind, names, name = cls.registry.kind, cls.registry.names(), given[word].lower()
        if name in names:
            return f"Write name: {name} in place of {word}: {given[word]}."
        known = other_words.member(kind, name) or suggest(name, names)
        return f"Write name in place of {word}. {known}"

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, **self.options.model_dump(mode="json")}


def _as_json(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="constants", fallback=str)


class TaskChoice(Choice):
    """What is learnt."""

    registry = TASKS


class TechniqueChoice(Choice):
    """Who may learn: which parameters, and how."""

    registry = TECHNIQUES


class ObjectiveChoice(Choice):
    """Which number goes down."""

    registry = OBJECTIVES


class OperationChoice(Choice):
    """A change of the model before it learns."""

    registry = OPERATIONS


class RetainerChoice(Choice):
    """A way to keep what the model knew."""

    registry = RETAINERS
