"""Reads a source with its target: a text and its translation, a text and its summary.

    {"source", "target"}                                     ─> TextPair
    {"translation": {"en": …, "fr": …}}                      ─> TextPair, the first language first
    {"document", "summary"}, {"article", "highlights"} …     ─> TextPair
    {"prompt", "completion"}, {"instruction", "output"}      ─> TextPair

What is wrong is a `RowError` that names the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tunesmith.data.records import TextPair
from tunesmith.data.turns import NothingToLearnError, RowError, text_field

Row = Mapping[str, Any]


def reader(source: str, target: str) -> Callable[[Row], TextPair]:
    """Return what reads a pair from two fields."""

    def read(row: Row) -> TextPair:
        return TextPair(source=_text(row, source), target=_text(row, target))

    return read


def read_translation_row(row: Row) -> TextPair:
    """Read two languages of one field; the first is translated into the second."""
    given = row["translation"]
    if not isinstance(given, Mapping):
        raise RowError("translation", given, 'an object such as {"en": "Hello", "fr": "Bonjour"}')
    if len(given) != 2:
        raise RowError(
            "translation",
            given,
            f"two languages, not {len(given)}; say which: data.columns:"
            " {source: translation.en, target: translation.fr}",
        )
    names = list(given)
    source, target = (_text(given, name, f"translation.{name}") for name in names)
    return TextPair(source=source, target=target)


def read_instruction_row(row: Row) -> TextPair:
    """Read an instruction (with its input) and what it asks for; one without a history."""
    for field in ("system", "history"):
        if row.get(field):
            raise RowError(field, row[field], "nothing: a pair has one text before its target")
    extra = text_field(row, "input", needed=False)
    source = _text(row, "instruction")
    source = f"{source}\n\n{extra}" if extra.strip() else source
    return TextPair(source=source, target=_text(row, "output"))


def _text(row: Row, field: str, path: str | None = None) -> str:
    text = text_field(row, field, path=path)
    if not text.strip():
        raise NothingToLearnError(path or field, text, "a text with something in it")
    return text


Fields = tuple[tuple[str, ...], Callable[[Row], TextPair], str]


def _of(source: str, target: str, example: str) -> Fields:
    return (source, target), reader(source, target), example


PAIRS: dict[str, Fields] = {
    "source_target": _of(
        "source", "target", '{"source": "Save as draft", "target": "Als Entwurf speichern"}'
    ),
    "translation": (
        ("translation",),
        read_translation_row,
        '{"translation": {"en": "Save as draft", "de": "Als Entwurf speichern"}}',
    ),
    "document_summary": _of(
        "document", "summary", '{"document": "A long report ...", "summary": "In short ..."}'
    ),
    "article_highlights": _of(
        "article", "highlights", '{"article": "A long report ...", "highlights": "In short ..."}'
    ),
    "dialogue_summary": _of(
        "dialogue", "summary", '{"dialogue": "A: Lunch? B: At one.", "summary": "They eat at one."}'
    ),
    "text_summary": _of(
        "text", "summary", '{"text": "A long report ...", "summary": "In short ..."}'
    ),
}
"""The formats that are pairs and nothing else, by name: fields, how a row is read, an example."""
