"""From pydantic's errors to sentences with a place: `recipe.yaml:3: training.epoch: what. Fix.`

    ValidationError, Document ──explain──> RecipeError

Knows the schema (to suggest the nearest right key of that level, or the level where a key belongs)
and the document (for lines). It checks nothing itself.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tunesmith.errors import RecipeError, nearest, suggest
from tunesmith.recipes import other_words
from tunesmith.recipes.choice import DEFAULT_TECHNIQUE, Choice, TechniqueChoice
from tunesmith.recipes.document import Document, Path
from tunesmith.recipes.schema import Recipe

_NOUNS = {
    "float": "a number",
    "int": "a whole number",
    "string": "a text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "a section of keys and values",
    "mapping": "a section of keys and values",
    "model": "a section of keys and values",
}


@dataclass(frozen=True)
class _Problem:
    path: Path
    what: str
    fix: str


def explain(error: ValidationError, document: Document) -> RecipeError:
    """Return one error that names every problem, each with its place."""
    found: dict[Path, _Problem] = {}
    for details in error.errors(include_url=False):
        problem = _problem(details, document)
        earlier = found.get(problem.path)
        if earlier:  # alternatives of one value: `a text` or `a number`
            either = earlier.what.partition(", not ")[0]
            other = problem.what.removeprefix("Must be ")
            problem = _Problem(problem.path, f"{either} or {other}", "")
        found[problem.path] = problem
    if len(found) == 1:
        [problem] = found.values()
        return RecipeError(
            problem.what, where=where(document, problem.path), fix=problem.fix or None
        )
    lines = [
        f"{where(document, problem.path)}: {problem.what} {problem.fix}".rstrip()
        for problem in found.values()
    ]
    listing = "".join(f"\n  {line}" for line in lines)
    return RecipeError(
        f"{len(lines)} things are wrong:{listing}", where=document.place(()).partition(":")[0]
    )


def where(document: Document, path: Path) -> str:
    """Return the place of a value and its dotted path: `recipe.yaml:3: training.epochs`."""
    place = document.place(path)
    dotted = ".".join(map(str, path))
    if not dotted or place.startswith(f"--set {dotted}="):
        return place
    return f"{place}: {dotted}"


def _problem(details: ErrorDetails, document: Document) -> _Problem:
    context = details.get("ctx") or {}
    kind = details["type"]
    path = document.real_path(details["loc"])
    if kind == "missing":
        key = context.get("key") or details["loc"][-1]
        path = (*path, key)
        what = f"{key!r} is missing."
        return _Problem(path, what, context.get("fix") or _what_it_is(path, document))
    if kind == "extra_forbidden":
        return _Problem(path, f"There is no option {path[-1]!r} here.", _right_key(path, document))
    if context.get("key"):
        path = (*path, *str(context["key"]).split("."))
    fix = context.get("fix") or ""
    if kind == "literal_error":
        fix = _right_value(str(details["input"]), str(context["expected"]))
    if kind == "list_type":
        fix = "Put it into brackets: [ … ]."
    if kind == "model_type" and path == ("data",) and isinstance(details["input"], str):
        fix = f"Write data: {{train: {details['input']}}}."
    return _Problem(path, _sentence(kind, context, details), fix)


def _sentence(kind: str, context: Mapping[str, Any], details: ErrorDetails) -> str:
    given = _shown(details["input"])
    if kind in ("unknown_member", "conflict"):
        return _end(details["msg"])
    if kind == "choice_type":
        return f"{details['msg']}, not {given}."
    if kind == "literal_error":
        return f"Must be {context['expected']}, not {given}."
    if kind == "finite_number":
        return f"Must be a finite number, not {given}."
    if kind in ("int_from_float", "int_parsing_size"):
        return f"Must be a whole number, not {given}."
    if kind.endswith("_type") and kind.removesuffix("_type") in _NOUNS:
        return f"Must be {_NOUNS[kind.removesuffix('_type')]}, not {given}."
    if kind == "value_error":
        return _end(str(context.get("error", details["msg"])))
    _, should, rest = details["msg"].partition(" should ")
    return f"Must {rest}, not {given}." if should else _end(details["msg"])


def _end(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _shown(value: Any) -> str:
    if value is None:
        return "empty (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a section"
    text = repr(value) if not isinstance(value, float) else f"{value:g}"
    return text if len(text) <= 60 else f"{text[:57]}…"


def _right_key(path: Path, document: Document) -> str:
    """Suggest where such a key belongs, what it is called here, or the nearest of its level."""
    key = str(path[-1])
    here = options_at(path[:-1], document)
    for section in _sections(document):
        if section != path[:-1] and key in options_at(section, document):
            home = ".".join(map(str, (*section, key)))
            return f"It belongs elsewhere: {home}."
    written_in = ".".join(map(str, path[:-1]))
    part, _, name = (other_words.home(key, written_in) or "").partition(".")
    if part not in ("task", "technique") or not name or name in options_at((part,), document):
        known = other_words.option(key, written_in)
        if known:
            return known
    elif part == "technique":
        lora = DEFAULT_TECHNIQUE
        return f"Here that is {name} of the technique {lora}, which is not the one chosen."
    return suggest(key, here) if here else "Remove it: nothing can be set here."


def _right_value(given: str, expected: str) -> str:
    """Suggest the nearest of the values that are expected, which are named already."""
    values = re.findall(r"'([^']*)'", expected)
    known = other_words.value(given)
    near = known if known in values else nearest(given, values)
    return f"Did you mean {near!r}?" if near else ""


def _what_it_is(path: Path, document: Document) -> str:
    description = options_at(path[:-1], document).get(str(path[-1]))
    return f"Give it: {description}." if description else ""


def _sections(document: Document) -> Iterator[Path]:
    yield ()
    for name in Recipe.model_fields:
        yield (name,)


def options_at(path: Path, document: Document) -> dict[str, str]:
    """Return the keys that may stand in the section at `path`, with their descriptions."""
    return _keys(Recipe, path, document.value)


def _keys(model: type[BaseModel] | None, path: Path, value: Any) -> dict[str, str]:
    if path and isinstance(path[0], int):  # an item of a list has the list's own annotation
        listed = isinstance(value, list) and path[0] < len(value)
        return _keys(model, path[1:], value[path[0]] if listed else None)
    own: dict[str, str] = {}
    if model is not None and issubclass(model, Choice):
        own = {"name": f"which {model.registry.kind}"}
        model = _chosen(model, value)
    if not path:
        return {**own, **_described(model)}
    if model is None:
        return {}
    key, rest = str(path[0]), path[1:]
    try:
        inside = value[key]
    except (KeyError, IndexError, TypeError):
        inside = None
    field = model.model_fields.get(key)
    if field and get_origin(field.annotation) is dict and rest:  # its keys are the user's own
        within = inside.get(rest[0]) if isinstance(inside, Mapping) else None
        return _keys(_model_in(get_args(field.annotation)[1]), rest[1:], within)
    return _keys(_model_in(field.annotation) if field else None, rest, inside)


def _chosen(choice: type[Choice], value: Any) -> type[BaseModel] | None:
    """Return the option model of the member that `value` names."""
    name = value.get("name") if isinstance(value, Mapping) else value
    if name is None and choice is TechniqueChoice:
        name = DEFAULT_TECHNIQUE
    if name not in choice.registry.names():
        return None
    options: type[BaseModel] = choice.registry.get(name).Options
    return options


def _described(model: type[BaseModel] | None) -> dict[str, str]:
    if model is None:
        return {}
    return {name: field.description or "" for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the pydantic model inside `Model`, `Model | None`, `list[Model]`, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list, tuple):
        for part in get_args(annotation):
            found = _model_in(part)
            if found is not None:
                return found
    return None
