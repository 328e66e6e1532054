"""Reading a recipe: file or mapping, overrides, validation, and where its files are.

    recipe.yaml, ["training.epochs=3"] ──load_recipe──> Recipe

Every problem becomes a `RecipeError` that says the file, line, key, what is wrong and the nearest
right word. Relative paths, those of overrides included, start at the recipe's folder. It reads no
record and no model: only whether the files that the recipe names are there.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunesmith.errors import RecipeError
from tunesmith.recipes.choice import DEFAULT_TECHNIQUE, Choice, ObjectiveChoice, TaskChoice
from tunesmith.recipes.data import DataOptions
from tunesmith.recipes.document import Document, from_mapping, override, read_document
from tunesmith.recipes.explain import explain, where
from tunesmith.recipes.members import members_of
from tunesmith.recipes.schema import Recipe

_CHOICES = {
    "task": None,
    "technique": DEFAULT_TECHNIQUE,
    "objective": None,
    "surgery": None,
    "retain": None,
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SHARE = re.compile(r"[\d.]+\s*%?")
_DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md")


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()
) -> Recipe:
    """Read and validate a recipe.

    Args:
        source: a YAML file, a mapping of the same shape (relative paths then start at the current
            folder), or a recipe.
        overrides: `key.key=value` each, the value in YAML; validated like the file itself.

    Raises:
        RecipeError: it cannot be read or is not valid; the message names every problem.
    """
    if isinstance(source, Recipe):
        source = source.model_dump()
    if isinstance(source, Mapping):
        return parse_recipe(source, overrides)
    path = Path(source)
    return _validated(read_document(_read(path), str(source)), overrides, path.parent)


def parse_recipe(
    mapping: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    base: Path | None = None,
    name: str = "recipe",
) -> Recipe:
    """Validate a mapping of a recipe's shape, as a notebook or a form makes it.

    Args:
        base: where relative paths start; the current folder, unless given.
        name: what the places in messages are called.

    Raises:
        RecipeError: an override, an option or a file is wrong.
    """
    return _validated(from_mapping(mapping, name), overrides, base or Path.cwd())


def _validated(document: Document, overrides: Sequence[str], base: Path) -> Recipe:
    if not isinstance(document.value, Mapping):
        raise RecipeError(
            "A recipe is made of keys and values.",
            where=document.place(()),
            fix="Begin with `model: NAME`.",
        )
    for assignment in overrides:
        document = override(document, assignment, _CHOICES)
    try:
        recipe = Recipe.model_validate(document.value)
    except ValidationError as error:
        raise explain(error, document) from None
    return _with_places_of_files(recipe, document, base)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(
            "There is no such recipe.", where=str(path), fix=_nearest_file(path)
        ) from None
    except IsADirectoryError:
        inside = sorted(path.glob("*.yaml"))
        fix = f"Did you mean {str(inside[0])!r}?" if inside else "Give the file."
        raise RecipeError("This is a folder, not a recipe.", where=str(path), fix=fix) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"This is not UTF-8 text (byte {error.start}).",
            where=f"{path}:{line}",
            fix="Save the file as UTF-8.",
        ) from None
    except OSError as error:
        raise RecipeError(
            f"This cannot be read: {error.strerror}.", where=str(path), fix="Check its permissions."
        ) from None


def _nearest_file(path: Path) -> str:
    names = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {str(path.with_name(near[0]))!r}?"
    return "`tunesmith init DIR` writes one to start from."


def _with_places_of_files(recipe: Recipe, document: Document, base: Path) -> Recipe:
    task = _with_data_of_members(recipe.task, document, base)
    data = recipe.data
    if not members_of(document.value):
        data = _with_places_of_data(data, ("data",), document, base)
    else:
        files = [each for member in _members(task).values() for each in member.data.train]
        data = data.model_copy(update={"train": list(dict.fromkeys(files))})
    retain = [_with_places(choice, i, document, base) for i, choice in enumerate(recipe.retain)]
    return recipe.model_copy(
        update={
            "retain": retain,
            "objective": _with_teacher(recipe.objective, base),
            "model": _located_model(recipe.model, base, where(document, ("model",))),
            "task": task,
            "data": data,
        }
    )


def _with_places_of_data(
    data: DataOptions, at: tuple[str, ...], document: Document, base: Path
) -> DataOptions:
    """Return data whose files are absolute paths; `at` is where they stand in the recipe."""
    several = len(data.train) > 1 or isinstance(_value_at(document.value, at)["train"], list)
    train = [
        _located(spec, base, where(document, (*at, "train", *((i,) if several else ()))))
        for i, spec in enumerate(data.train)
    ]
    apart = {
        name: _located(spec, base, where(document, (*at, name)))
        for name in ("test", "validation")
        if isinstance(spec := getattr(data, name), str)
    }
    return data.model_copy(update={"train": train, **apart})


def _value_at(value: Any, path: tuple[str, ...]) -> Any:
    return functools.reduce(operator.getitem, path, value)


def _members(task: TaskChoice) -> Mapping[str, Any]:
    members: Mapping[str, Any] = getattr(task.options, "members", {})
    return members


def _with_data_of_members(task: TaskChoice, document: Document, base: Path) -> TaskChoice:
    """Return the task with the files that its members name, where it is made of several."""
    if not members_of(document.value):
        return task
    members = {
        name: member.model_copy(
            update={
                "data": _with_places_of_data(
                    member.data, ("task", "members", name, "data"), document, base
                )
            }
        )
        for name, member in _members(task).items()
    }
    options = task.options.model_copy(update={"members": members})
    return task.model_copy(update={"options": options})


def _with_places(choice: Choice, number: int, document: Document, base: Path) -> Choice:
    """Return a member's choice with the files that its option `data` names, if it has one."""
    files = getattr(choice.options, "data", None)
    if not files:
        return choice
    data = [
        _located(spec, base, where(document, ("retain", number, "data", place)))
        for place, spec in enumerate(files)
    ]
    return choice.model_copy(update={"options": choice.options.model_copy(update={"data": data})})


def _with_teacher(choice: ObjectiveChoice | None, base: Path) -> ObjectiveChoice | None:
    """Return the objective with the absolute path of its teacher, where that is a folder."""
    teacher = getattr(choice.options, "teacher", None) if choice else None
    if choice is None or teacher is None or not (base / Path(teacher).expanduser()).exists():
        return choice
    path = str((base / Path(teacher).expanduser()).resolve())
    return choice.model_copy(
        update={"options": choice.options.model_copy(update={"teacher": path})}
    )


def _located(spec: str, base: Path, place: str) -> str:
    """Return the absolute path of a file or folder, or the name of a hub data set as it is."""
    if spec.startswith("hub:"):
        return spec
    path = base / Path(spec).expanduser()
    if path.exists():
        return str(path.resolve())
    name = spec.partition(":")[0]
    if _HUB_ID.fullmatch(name) and not name.endswith(_DATA_SUFFIXES) and name[0] != ".":
        return spec
    raise RecipeError(
        f"There is no file {spec!r} (looked for {path.absolute()}).",
        where=place,
        fix=_nearest_data(path),
    )


def _nearest_data(path: Path) -> str:
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    if _SHARE.fullmatch(path.name):
        return "A share is a number above 0 and below 1, without quotes, such as 0.2."
    return "Relative paths start at the recipe's folder."


def _located_model(spec: str, base: Path, place: str) -> str:
    """Return the absolute path of a local model, or its name as it is."""
    path = base / Path(spec).expanduser()
    is_path = spec.endswith(".gguf") or spec.startswith(("./", "../", "/", "~"))
    files = ("config.json", "adapter_config.json")
    if path.exists() if is_path else path.is_file() or any((path / n).is_file() for n in files):
        return str(path.resolve())
    if is_path:
        raise RecipeError(
            f"There is no model at {spec!r} (looked for {path.absolute()}).",
            where=place,
            fix=_nearest_data(path) if path.parent.is_dir() else "`tunesmith models` lists names.",
        )
    return spec
