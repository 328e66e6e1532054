"""Reads texts with what is to be said of them: a class, several classes, a score, relevant texts.

    {"text", "label" [, "text_pair"]}                  ─> LabelledText
    {"sentence1", "sentence2", "label"}                ─> LabelledText with a second text
    {"premise", "hypothesis", "label"}                 ─> likewise
    {"text", "labels" [, "text_pair"]}                 ─> MultiLabelledText
    {"text", "score" [, "text_pair"]}                  ─> ScoredText
    {"sentence1", "sentence2", "score"}                ─> ScoredText with a second text
    {"query", "documents", "relevance"}                ─> RankedTexts
    {"query", "document", "relevance"} ──gather──> such rows, one for each query

What is wrong is a `RowError` that names the field. `given_texts` reads what a user asks about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.records import LabelledText, MultiLabelledText, RankedTexts, ScoredText
from tunesmith.data.turns import NothingToLearnError, RowError, text_field
from tunesmith.errors import DataError

Row = Mapping[str, Any]


def read_label_row(row: Row) -> LabelledText:
    """Read a text, or two, with a class."""
    return LabelledText(
        text=some_text(row, "text"), other=_other(row), label=_class(row["label"], "label")
    )


def read_pair_label_row(row: Row) -> LabelledText:
    """Read two sentences with a class."""
    one, two = some_text(row, "sentence1"), some_text(row, "sentence2")
    return LabelledText(text=one, other=two, label=_class(row["label"], "label"))


def read_inference_row(row: Row) -> LabelledText:
    """Read a premise and a hypothesis with what the one says of the other."""
    one, two = some_text(row, "premise"), some_text(row, "hypothesis")
    return LabelledText(text=one, other=two, label=_class(row["label"], "label"))


def read_labels_row(row: Row) -> MultiLabelledText:
    """Read a text, or two, with all the classes that it belongs to; there may be none."""
    given = row["labels"]
    if isinstance(given, str) and given.lstrip().startswith("["):  # a list in a table of texts
        try:
            given = json.loads(given)
        except ValueError:
            raise RowError("labels", given, "a list of classes") from None
    if not isinstance(given, list | tuple):
        raise RowError("labels", given, "a list of classes")
    names = [_class(value, f"labels[{place}]") for place, value in enumerate(given)]
    return MultiLabelledText(
        text=some_text(row, "text"), other=_other(row), labels=list(dict.fromkeys(names))
    )


def read_score_row(row: Row) -> ScoredText:
    """Read a text, or two, with a score."""
    return ScoredText(
        text=some_text(row, "text"), other=_other(row), score=number(row["score"], "score")
    )


def read_pair_score_row(row: Row) -> ScoredText:
    """Read two sentences with a score."""
    one, two = some_text(row, "sentence1"), some_text(row, "sentence2")
    return ScoredText(text=one, other=two, score=number(row["score"], "score"))


def read_ranked_row(row: Row) -> RankedTexts:
    """Read a query with documents, and how relevant each is."""
    documents, relevance = row["documents"], row["relevance"]
    if not isinstance(documents, list | tuple) or not documents:
        raise RowError("documents", documents, "a list of texts")
    if not isinstance(relevance, list | tuple) or len(relevance) != len(documents):
        raise RowError(
            "relevance", relevance, f"a list of {len(documents)} numbers, one a document"
        )
    for place, text in enumerate(documents):
        if not isinstance(text, str) or not text.strip():
            raise RowError(f"documents[{place}]", text, "a text with something in it")
    found = [_relevance(value, f"relevance[{place}]") for place, value in enumerate(relevance)]
    return RankedTexts(text=some_text(row, "query"), documents=list(documents), relevance=found)


def gather(
    rows: Sequence[dict[str, Any]], origins: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str], list[int]]:
    """Return a row for each query of rows that have one document each; other rows as they are.

    Returns:
        The rows, the origin of each (of several, the first), and its place in `rows`.
    """
    found: list[dict[str, Any]] = []
    places: list[int] = []
    known: dict[str, dict[str, Any]] = {}
    for place, row in enumerate(rows):
        query = query_of(row)
        if query is None:
            found.append(row)
            places.append(place)
            continue
        if query not in known:
            beside = {k: v for k, v in row.items() if k not in ("document", "relevance")}
            known[query] = {**beside, "documents": [], "relevance": []}
            found.append(known[query])
            places.append(place)
        known[query]["documents"].append(row["document"])
        known[query]["relevance"].append(row.get("relevance"))
    return found, [origins[place] for place in places], places


def query_of(row: Row) -> str | None:
    """Return the query of a row that has one document of several; None of any other row."""
    query = row.get("query")
    alone = isinstance(query, str) and "document" in row and "documents" not in row
    return query if alone else None


def given_texts(given: Any, number: int, *, paired: bool) -> tuple[str, str | None]:
    """Return the text, or the two, of one input of a user.

    Args:
        number: of the input, for messages.
        paired: whether all that was learnt from had two texts.

    Raises:
        DataError: it is neither a text nor an object with two, or one text where two were learnt.
    """
    text: Any = given
    other: Any = None
    if isinstance(given, Mapping):
        text, other = given.get("text"), given.get("text_pair")
    where = f"input {number}"
    fix = 'Give {"text": …, "text_pair": …}.'
    if not isinstance(text, str) or not isinstance(other, str | None):
        raise DataError(f"It is a {type(given).__name__}, not a text.", where=where, fix=fix)
    if paired and other is None:
        raise DataError(
            "It is one text; the model learnt from pairs of texts.", where=where, fix=fix
        )
    return text, other


def some_text(row: Row, field: str) -> str:
    """Return the text in `field`.

    Raises:
        RowError: it is no text, or has nothing in it.
    """
    text = text_field(row, field)
    if not text.strip():
        raise NothingToLearnError(field, text, "a text with something in it")
    return text


def number(value: Any, field: str) -> float:
    """Return a number, also one that is written as a text.

    Raises:
        RowError: it is none, or not finite.
    """
    found = value
    if isinstance(found, str):
        try:
            found = float(found)
        except ValueError:
            raise RowError(field, value, "a number") from None
    if not isinstance(found, int | float) or isinstance(found, bool) or not math.isfinite(found):
        raise RowError(field, value, "a number")
    return float(found)


def _other(row: Row) -> str | None:
    return None if row.get("text_pair") is None else some_text(row, "text_pair")


def _class(value: Any, field: str) -> str:
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        value = str(int(value))
    if not isinstance(value, str) or not value.strip():
        raise RowError(field, value, "a class (a name or a whole number)")
    return value.strip()


def _relevance(value: Any, field: str) -> float:
    found = float(value) if isinstance(value, bool) else number(value, field)
    if found < 0:
        raise RowError(field, value, "a number of 0 or more")
    return found
