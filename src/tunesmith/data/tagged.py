"""Reads a row that says what is named in a text: words with tags, or a text with spans.

    {"tokens": [...], "tags": [...]}      ─> TaggedText     the text is the words, with spaces
    {"text": ..., "entities": [...]}      ─> TaggedText     the words are those of `words_of`

What is wrong is a `RowError` that names the field: a tag that cannot stand where it does, a span
outside the text, over another, or through a word. Which scheme the tags are in is read off their
letters, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tunesmith.data.records import Entity, TaggedText
from tunesmith.data.tagging import (
    OUTSIDE,
    entities_of_spans,
    is_tag,
    read_iob1,
    read_tags,
    scheme_of,
    words_of,
    write_tags,
)
from tunesmith.data.turns import NothingToLearnError, RowError, text_field

Row = Mapping[str, Any]
Span = tuple[int, int, str]


def read_tags_row(row: Row) -> TaggedText:
    """Read words and their tags in BIO, IOBES or BILOU."""
    tokens, tags = _tokens(row), _tags(row)
    scheme = scheme_of(tags)
    if scheme is None:
        letters = ", ".join(sorted({tag[0] for tag in tags if tag != OUTSIDE}))
        raise RowError(
            "tags", tags, f"tags of one scheme (BIO, IOBES or BILOU), not {letters} together"
        )
    entities = read_tags(tags)
    legal = write_tags(entities, len(tags), scheme)
    hint = " (in IOB1 this is right: say data.format: tokens_iob1)" if scheme == "bio" else ""
    _check_legal(tokens, tags, legal, scheme.upper(), hint)
    return of_words(tokens, entities)


def read_iob1_row(row: Row) -> TaggedText:
    """Read words and their tags in IOB1, where `B` only parts neighbours of one label."""
    tokens, tags = _tokens(row), _tags(row)
    if scheme_of(tags) != "bio":
        raise RowError("tags", tags, "tags of IOB1: O, I- or B-")
    entities, legal = read_iob1(tags)
    _check_legal(tokens, tags, legal, "IOB1", "")
    return of_words(tokens, entities)


def read_spans_row(row: Row) -> TaggedText:
    """Read a text and the spans in it, each an object or a list `[start, end, label]`."""
    text = text_field(row, "text")
    words = words_of(text)
    if not words:
        raise NothingToLearnError("text", text, "a text with something in it")
    given = row["entities"]
    if not isinstance(given, list | tuple):
        raise RowError("entities", given, "a list of spans")
    spans = [_span(item, f"entities[{i}]", text) for i, item in enumerate(given)]
    order = sorted(range(len(spans)), key=lambda i: spans[i])
    for before, after in pairwise(order):
        if spans[after][0] < spans[before][1]:
            raise RowError(
                f"entities[{after}]", _said(text, spans[after]),
                f"a span that does not overlap entities[{before}] ({_said(text, spans[before])!r})",
            )  # fmt: skip
    try:
        entities = entities_of_spans(words, [spans[i] for i in order])
    except KeyError as error:
        place = order[error.args[0]]
        raise RowError(
            f"entities[{place}]", _said(text, spans[place]), _whole(text, words, spans[place])
        ) from None
    return TaggedText(text=text, words=words, entities=entities)


def of_words(words: Sequence[str], entities: list[Entity]) -> TaggedText:
    """Return a record of separate words; its text has spaces between them."""
    places, start = [], 0
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return TaggedText(text=" ".join(words), words=places, entities=entities)


def _tokens(row: Row) -> list[str]:
    tokens = row["tokens"]
    if not isinstance(tokens, list | tuple):
        raise RowError("tokens", tokens, "a list of words")
    if not tokens:
        raise NothingToLearnError("tokens", tokens, "at least one word")
    for place, token in enumerate(tokens):
        if not isinstance(token, str) or not token.strip():
            raise RowError(f"tokens[{place}]", token, "a word")
    return [token.strip() for token in tokens]


def _tags(row: Row) -> list[str]:
    tags, tokens = row["tags"], row["tokens"]
    if not isinstance(tags, list | tuple):
        raise RowError("tags", tags, "a list of tags")
    for place, tag in enumerate(tags):
        if not isinstance(tag, str) or not is_tag(tag):
            raise RowError(f"tags[{place}]", tag, "a tag: O, or a letter and a label such as B-PER")
    if len(tags) != len(tokens):
        raise RowError("tags", tags, f"one tag a word: {len(tokens)}, not {len(tags)}")
    return list(tags)


def _check_legal(
    tokens: Sequence[str], tags: Sequence[str], legal: Sequence[str], scheme: str, hint: str
) -> None:
    for place, (tag, right) in enumerate(zip(tags, legal, strict=True)):
        if tag != right:
            before = f"after {tags[place - 1]!r}" if place else "at the beginning"
            raise RowError(
                f"tags[{place}]", tag,
                f"{right!r}: in {scheme} {tag!r} cannot stand at {tokens[place]!r}, {before}{hint}",
            )  # fmt: skip


def _span(item: Any, path: str, text: str) -> Span:
    expected = 'a span such as {"start": 0, "end": 3, "label": "PER"} or [0, 3, "PER"]'
    if isinstance(item, Mapping):
        item = [item.get(name) for name in ("start", "end", "label")]
    if not isinstance(item, list | tuple) or len(item) != 3:
        raise RowError(path, item, expected)
    start, end, label = item
    for value in (start, end):
        if not isinstance(value, int) or isinstance(value, bool):
            raise RowError(path, value, expected)
    if not isinstance(label, str) or not label.strip():
        raise RowError(f"{path}.label", label, "what it is, such as PER")
    if not 0 <= start < end <= len(text):
        raise RowError(
            path, f"{start} to {end}", f"a span within the text of {len(text)} characters"
        )
    return start, end, label.strip()


def _said(text: str, span: Span) -> str:
    return text[span[0] : span[1]]


def _whole(text: str, words: Sequence[tuple[int, int]], span: Span) -> str:
    """Say what a span should be that does not begin or end where a word does."""
    inside = [(start, end) for start, end in words if start < span[1] and end > span[0]]
    if not inside:
        return "a span of words"
    start, end = inside[0][0], inside[-1][1]
    return f"whole words: {text[start:end]!r}, from {start} to {end}"
