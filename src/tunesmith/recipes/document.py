"""YAML with line numbers: a recipe's text becomes plain data and the place of every value.

    text ──read_document──> Document(value, places) ──override──> Document

Scalars follow YAML 1.2, as people expect: `2e-4` is a number, `no` and `on` are words, a date is a
text. A key that stands twice is an error, as are anchors and tags. This module knows no schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from tunesmith.errors import RecipeError

Path = tuple[str | int, ...]
"""Keys and indices from the top of a document to a value."""


@dataclass(frozen=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None), and where each value was written.

    `places` maps the path of a value to `recipe.yaml:3` or `--set training.epochs=3`.
    """

    value: Any
    places: Mapping[Path, str]

    def place(self, path: Path) -> str:
        """Return where the value at `path`, or the nearest one around it, was written."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places[path]

    def real_path(self, path: Path) -> Path:
        """Return the longest beginning of `path` that leads to a value of this document."""
        value = self.value
        for depth, key in enumerate(path):
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return path[:depth]
        return path


class _Scalars:
    """Implicit types of YAML 1.2's core schema, for the loader and the dumper alike."""

    patterns = (
        ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
        ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", "-+0123456789"),
        (
            "tag:yaml.org,2002:float",
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            "-+.0123456789",
        ),
    )

    @classmethod
    def install(cls, target: Any) -> None:
        target.yaml_implicit_resolvers = {}
        for tag, pattern, first in cls.patterns:
            letters = ["" if letter == "\0" else letter for letter in first]
            target.add_implicit_resolver(tag, re.compile(rf"^(?:{pattern})$"), letters)


class _Loader(yaml.SafeLoader):
    """Composes nodes; refuses what a recipe needs not (an alias could also grow without end)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(
                problem="anchors, aliases and tags are not used in recipes; write the value out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


class RecipeDumper(yaml.SafeDumper):
    """Writes what `read_document` reads back as the same."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)

    def represent_text(self, text: str) -> Any:
        """Escape rare line breaks, which YAML folds away when they stand in the open."""
        style = '"' if set(text) & set("\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


RecipeDumper.add_representer(str, RecipeDumper.represent_text)
_Scalars.install(_Loader)
_Scalars.install(RecipeDumper)


def read_document(text: str, name: str) -> Document:
    """Parse YAML.

    Args:
        text: the YAML.
        name: what the places are called, usually the file.

    Raises:
        RecipeError: the text is no YAML, is empty, or has a key twice; `where` has the line.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(
            f"This is not valid YAML: {error.problem or error.context}.",
            where=f"{name}:{line}",
            fix="Check the indentation, colons and quotes around this line.",
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"This is not valid YAML: the character {_code(error.character)} is not allowed.",
            where=f"{name}:{line}",
            fix="Remove it; it is often pasted in unseen.",
        ) from None
    except RecursionError:
        raise RecipeError("This is nested too deeply.", where=name, fix="Flatten it.") from None
    if node is None:
        raise RecipeError(
            "The recipe is empty.", where=name, fix="`tunesmith init DIR` writes one to start from."
        )
    places: dict[Path, str] = {}
    value = _plain(node, (), name, places)
    return Document(value, places)


def _code(character: str | int) -> str:
    return f"U+{character if isinstance(character, int) else ord(character):04X}"


def _plain(node: yaml.Node, path: Path, name: str, places: dict[Path, str]) -> Any:
    places[path] = f"{name}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, name, places)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, i), name, places) for i, item in enumerate(node.value)]
    return _scalar(node)


def _mapping(
    node: yaml.MappingNode, path: Path, name: str, places: dict[Path, str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError(
                "A key must be a word.", where=f"{name}:{line}", fix="Check the brackets here."
            )
        key = key_node.value
        dotted = ".".join(map(str, (*path, key)))
        if key in values:
            first = places[(*path, key)].rpartition(":")[2]
            raise RecipeError(
                f"This key stands twice; the first is in line {first}.",
                where=f"{name}:{line}: {dotted}",
                fix="Remove one of the two.",
            )
        values[key] = _plain(value_node, (*path, key), name, places)
        places[(*path, key)] = f"{name}:{line}"
    return values


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    match node.tag.removeprefix("tag:yaml.org,2002:"):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" if len(text) < 100:
            return int(text)
        case "int" | "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def from_mapping(mapping: Mapping[str, Any], name: str) -> Document:
    """Take a mapping made in Python; paths become texts, tuples become lists."""
    return Document(_from_python(mapping), {(): name})


def _from_python(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _from_python(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_from_python(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value


def override(document: Document, assignment: str, choices: Mapping[str, str | None]) -> Document:
    """Set one value, as `--set training.epochs=3` asks.

    Args:
        document: what to change; it stays as it is.
        assignment: `a.b=value`, the value in YAML. In a list a number stands for an item, counted
            from 0 (`surgery.0.layers=[1]`); the number behind the last adds one.
        choices: first keys whose section (or the items of whose list) may be only a name
            (`technique: lora`), with the name that stands there by default.

    Raises:
        RecipeError: the assignment has no `=`, no key, or goes into a value that has no parts.
    """
    place = f"--set {assignment}"
    dotted, sign, text = assignment.partition("=")
    keys = [part.strip() for part in dotted.split(".")]
    if not sign or not all(keys):
        raise RecipeError(
            "An override is written as key=value.",
            where=place,
            fix="For example --set training.learning_rate=1e-4.",
        )
    value = _override_value(text, place)
    root = _section(document.value, place)
    level: Any = root
    path: Path = ()
    made: list[Path] = []
    for depth, word in enumerate(keys[:-1]):
        key, inside = _inside(level, word, path, place)
        path = (*path, key)
        if path[0] in choices and (depth == 0 or (depth == 1 and isinstance(key, int))):
            inside = _named(inside, choices[str(path[0])] if depth == 0 else None)
        if inside is None:
            made.append(path)
            inside = [] if keys[depth + 1].isdecimal() else {}
        inside = _parts(inside, place, path)
        _put(level, key, inside)
        level = inside
    key, _ = _inside(level, keys[-1], path, place)
    path = (*path, key)
    _put(level, key, value)
    places = {known: w for known, w in document.places.items() if known[: len(path)] != path}
    return Document(root, dict.fromkeys(made, place) | places | {path: place})


def _inside(level: Any, word: str, path: Path, place: str) -> tuple[str | int, Any]:
    """Return a key of a section or a number of a list, and what stands there; None if nothing."""
    if not isinstance(level, list):
        return word, level.get(word)
    if not word.isdecimal() or int(word) > len(level):
        raise RecipeError(
            f"{'.'.join(map(str, path))} is a list of {len(level)}, and has no item {word!r}.",
            where=place,
            fix=f"Give a number from 0 to {max(len(level) - 1, 0)}, or {len(level)} to add one.",
        )
    number = int(word)
    return number, level[number] if number < len(level) else None


def _named(inside: Any, default: str | None) -> Any:
    """Return the section of what may be only a name."""
    if inside is not None and not isinstance(inside, str):
        return inside
    name = inside or default
    return {"name": name} if name else None


def _put(level: Any, key: str | int, value: Any) -> None:
    if isinstance(level, list) and key == len(level):
        level.append(value)
    else:
        level[key] = value


def _override_value(text: str, place: str) -> Any:
    try:
        return read_document(text, place).value if text.strip() else None
    except RecipeError as error:
        raise RecipeError(error.what, where=place, fix="Write the value in YAML.") from None


def _parts(value: Any, place: str, path: Path) -> dict[str, Any] | list[Any]:
    if isinstance(value, list):
        return list(value)
    return _section(value, place, ".".join(map(str, path)))


def _section(value: Any, place: str, dotted: str = "the recipe") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise RecipeError(
        f"{dotted} holds {value!r}, which has no parts.",
        where=place,
        fix="Override the whole value, in YAML.",
    )
