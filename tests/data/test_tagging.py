"""Tags, words and spans: read as seqeval reads them, and refused where they make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities

from tunesmith.data.dataset import load_dataset
from tunesmith.data.records import Entity, TaggedText
from tunesmith.data.sources import read_source
from tunesmith.data.tagging import (
    labels_in,
    read_iob1,
    read_tags,
    scheme_of,
    words_of,
    write_tags,
)
from tunesmith.errors import DataError

LABELS = ("LOC", "ORG-X")
ANY = st.lists(
    st.sampled_from(["O", *(f"{letter}-{label}" for letter in "BIES" for label in LABELS)]),
    min_size=1,
    max_size=12,
)
STRICT = {"bio": IOB2, "iobes": IOBES, "bilou": BILOU}


@st.composite
def entities(draw: st.DrawFn) -> tuple[list[Entity], int]:
    """Entities that do not overlap, and how many words there are."""
    found, place = [], 0
    for _ in range(draw(st.integers(0, 5))):
        start = place + draw(st.integers(0, 2))
        place = start + draw(st.integers(1, 4))
        found.append(Entity(start=start, end=place, label=draw(st.sampled_from(LABELS))))
    return found, place + draw(st.integers(0 if place else 1, 2))


def triples(found: list[Entity]) -> list[tuple[str, int, int]]:
    return [(entity.label, entity.start, entity.end - 1) for entity in found]


@given(ANY)
def test_any_tags_are_read_as_seqeval_reads_them(tags: list[str]) -> None:
    assert triples(read_tags(tags)) == get_entities(tags)


@given(ANY)
def test_bilou_is_iobes_under_other_letters(tags: list[str]) -> None:
    other = [tag.replace("E-", "L-", 1).replace("S-", "U-", 1) for tag in tags]
    assert read_tags(other) == read_tags(tags)


@pytest.mark.parametrize("scheme", STRICT)
@given(entities())
def test_what_is_written_reads_back_here_and_in_seqeval(scheme: Any, given: Any) -> None:
    found, words = given
    tags = write_tags(found, words, scheme)
    assert read_tags(tags) == found
    strict = Entities([tags], STRICT[scheme]).entities[0]
    assert [(e.tag, e.start, e.end - 1) for e in strict] == triples(found)
    assert set(tags) <= set(labels_in(LABELS, scheme))


@given(entities())
@settings(max_examples=50)
def test_iob1_is_read_as_seqeval_reads_it(given: Any) -> None:
    found, words = given
    _, tags = read_iob1(write_tags(found, words, "bio"))
    assert read_iob1(tags) == (found, tags)
    assert [(e.tag, e.start, e.end - 1) for e in Entities([tags], IOB1).entities[0]] == triples(
        found
    )


def test_the_scheme_is_told_by_the_letters() -> None:
    assert scheme_of(["O", "B-A", "I-A"]) == "bio"
    assert scheme_of(["O", "S-A"]) == "iobes"
    assert scheme_of(["U-A", "B-A"]) == "bilou"
    assert scheme_of(["U-A", "E-A"]) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada's U.S.-trip, 2!", ["Ada", "'", "s", "U", ".", "S", ".", "-", "trip", ",", "2", "!"]),
        ("  a\tb\n", ["a", "b"]),
        ("naïve café cafe\u0301", ["naïve", "café", "cafe\u0301"]),
        ("我住在Berlin。", ["我", "住", "在", "Berlin", "。"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("a\u200bb", ["a", "b"]),
    ],
)  # fmt: skip
def test_words_are_runs_of_letters_and_digits(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in words_of(text)] == words


# Files


CONLL = """-DOCSTART- -X- O

# id = 1
Ada NNP B-PER
Lovelace NNP I-PER
wrote VBD O

# NN O
London NNP B-LOC
"""


def conll(folder: Path, text: str, name: str = "a.conll", **options: Any) -> list[TaggedText]:
    (folder / name).write_text(text, "utf-8")
    return load_dataset([str(folder / name)], TaggedText, **options).records


@pytest.mark.parametrize("name", ["a.conll", "a.bio", "a.iob"])
def test_a_conll_file_is_read_sentence_by_sentence(tmp_path: Path, name: str) -> None:
    first, second = conll(tmp_path, CONLL, name)
    assert (first.text, second.text) == ("Ada Lovelace wrote", "# London")
    assert first.entities == [Entity(start=0, end=2, label="PER")]
    assert second.said(second.entities[0]) == "London"
    raw = read_source(str(tmp_path / name))
    assert raw.origins == [f"{name}:4", f"{name}:8"]


def test_columns_may_hold_spaces_where_tabs_part_them(tmp_path: Path) -> None:
    (record,) = conll(tmp_path, "New York\tB-LOC\r\nis\tO\r\n")
    assert record.text == "New York is"
    assert record.said(record.entities[0]) == "New York"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("Ada B-PER\nwrote\n", "a.conll:2", "Line 2 holds 'wrote' alone, expected a word and its"),
        ("Ada B-PER\nwrote VBD O\n", "a.conll:2", "Line 2 has 3 columns, the lines before it"),
        ("Ada B-PER\n\nwrote PER\n", "a.conll:3", "Line 3 ends with 'PER', expected a tag"),
        ("Ada B-\n", "a.conll:1", "Line 1 ends with 'B-'"),
        ("\tB-PER\n", "a.conll:1", "Line 1 has no word"),
    ],
)
def test_a_broken_line_is_named_with_file_and_line(tmp_path, text, where, what) -> None:
    with pytest.raises(DataError) as caught:
        conll(tmp_path, text)
    assert caught.value.where.endswith(where)
    assert caught.value.what.startswith(what)


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        (["O", "I-PER"], "tags[1]: found the text 'I-PER', expected 'B-PER': in BIO 'I-PER' cannot"
         " stand at 'b', after 'O' (in IOB1 this is right: say data.format: tokens_iob1)"),
        (["B-PER", "I-LOC"], "tags[1]"),
        (["I-PER", "O"], "cannot stand at 'a', at the beginning"),
        (["S-PER", "B-PER"], "tags[1]: found the text 'B-PER', expected 'S-PER': in IOBES"),
        (["U-PER", "L-PER"], "in BILOU"),
        (["S-PER", "U-PER"], "tags of one scheme (BIO, IOBES or BILOU), not S, U together"),
        (["B-PER"], "expected one tag a word: 2, not 1"),
        (["O", 3], "tags[1]: found 3 (a number), expected a tag"),
    ],
)  # fmt: skip
def test_tags_that_cannot_stand_so_are_named(tmp_path: Path, tags: list[Any], what: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"tokens": ["a", "b"], "tags": tags}))
    with pytest.raises(DataError) as caught:
        load_dataset([str(path)], TaggedText)
    assert what in caught.value.what
    assert "record 1 (a.jsonl:1)" in caught.value.what


def test_iob1_is_read_where_it_is_named(tmp_path: Path) -> None:
    (record,) = conll(tmp_path, "a I-X\nb B-X\nc I-Y\n", format="tokens_iob1")
    assert triples(record.entities) == [("X", 0, 0), ("X", 1, 1), ("Y", 2, 2)]
    with pytest.raises(DataError, match="in IOB1 'B-X' cannot stand at 'a'"):
        conll(tmp_path, "a B-X\n", format="tokens_iob1")


def spans(folder: Path, text: str, *given: Any) -> TaggedText:
    path = folder / "a.jsonl"
    path.write_text(json.dumps({"text": text, "entities": given}))
    return load_dataset([str(path)], TaggedText).records[0]


def test_spans_are_objects_or_lists_in_any_order(tmp_path: Path) -> None:
    text = "Ada Lovelace lived in London."
    record = spans(tmp_path, text, [22, 28, "LOC"], {"start": 0, "end": 12, "label": " PER "})
    assert [(record.said(e), e.label) for e in record.entities] == [
        ("Ada Lovelace", "PER"),
        ("London", "LOC"),
    ]


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ([[0, 40, "A"]], "a span within the text of 11 characters"),
        ([[-1, 3, "A"]], "entities[0]: found the text '-1 to 3'"),
        ([[3, 3, "A"]], "within the text"),
        ([[0, 2, "A"]], "found the text 'Ad', expected whole words: 'Ada', from 0 to 3"),
        ([[0, 4, "A"]], "found the text 'Ada ', expected whole words: 'Ada', from 0 to 3"),
        ([[3, 4, "A"]], "a span of words"),
        ([[0, 7, "A"], [4, 7, "B"]], "entities[1]: found the text 'saw', expected a span that does"
         " not overlap entities[0] ('Ada saw')"),
        ([["0", 3, "A"]], "a span such as"),
        ([[0, 3]], "a span such as"),
        ([[0, 3, ""]], "entities[0].label: found an empty text"),
        ({}, "entities: found an object, expected a list of spans"),
    ],
)  # fmt: skip
def test_spans_that_make_no_sense_are_named(tmp_path: Path, given: Any, what: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "Ada saw it.", "entities": given}))
    with pytest.raises(DataError) as caught:
        load_dataset([str(path)], TaggedText)
    assert what in caught.value.what
