"""YAML is read as people expect it, and every value keeps its line."""

from __future__ import annotations

import pytest

from tunesmith.errors import RecipeError
from tunesmith.recipes.document import read_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1.", 1.0),
        ("-7", -7),
        ("007", 7),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("2024-01-31", "2024-01-31"),
        ("1:30", "1:30"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("'5'", "5"),
        ("café ☕", "café ☕"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = read_document(f"key: {text}", "r").value["key"]
    assert read == value
    assert type(read) is type(value)


def test_every_value_has_the_line_of_its_key() -> None:
    document = read_document("a: 1\nb:\n  c:\n    - x\n    - y\n", "r.yaml")
    assert document.place(("a",)) == "r.yaml:1"
    assert document.place(("b", "c")) == "r.yaml:3"
    assert document.place(("b", "c", 1)) == "r.yaml:5"
    assert document.place(("b", "unknown")) == "r.yaml:2"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "r", "empty"),
        ("# only a comment\n", "r", "empty"),
        ("a: 1\nb: 2\na: 3\n", "r:3: a", "stands twice; the first is in line 1"),
        ("a:\n  b: 1\n  b: 2\n", "r:3: a.b", "stands twice; the first is in line 2"),
        ("a: 1\n  b: 2\n", "r:2", "not valid YAML"),
        ("a: 1\nb: [1, 2\n", "r:3", "not valid YAML"),
        ("a: 1\n\tb: 2\n", "r:2", "not valid YAML"),
        ("a: &x 1\nb: *x\n", "r:1", "anchors, aliases and tags"),
        ("a: 1\nb: !!python/name:os.system\n", "r:2", "anchors, aliases and tags"),
        ("a: 1\n---\nb: 2\n", "r:2", "not valid YAML"),
        ("a: 1\nb: x\x00y\n", "r:2", "U+0000 is not allowed"),
        ("a: 1\n[b]: 2\n", "r:2", "A key must be a word"),
        ("a: " + "[" * 2000, "r", "nested too deeply"),
    ],
)
def test_what_is_no_recipe_is_named_with_its_line(text: str, where: str, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_document(text, "r")
    assert caught.value.where == where
    assert what in caught.value.what
