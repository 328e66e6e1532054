"""Reads texts that belong together: a query with its right text, or two texts with a score.

    {"anchor", "positive" [, "negative" | "negatives"]}   ─> RelatedTexts
    {"sentence1", "sentence2", "score"}                   ─> RelatedTexts with a score

What is wrong is a `RowError` that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.data.labelled import number, some_text
from tunesmith.data.records import RelatedTexts
from tunesmith.data.turns import RowError

Row = Mapping[str, Any]


def read_related_row(row: Row) -> RelatedTexts:
    """Read a query, the text that is right for it, and texts that are not."""
    given = row.get("negatives")
    if given is None:
        given = [] if row.get("negative") is None else row["negative"]
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list | tuple):
        raise RowError("negatives", given, "a text or a list of texts")
    for place, text in enumerate(given):
        if not isinstance(text, str) or not text.strip():
            raise RowError(f"negatives[{place}]", text, "a text")
    return RelatedTexts(
        text=some_text(row, "anchor"), other=some_text(row, "positive"), wrong=list(given)
    )


def read_scored_row(row: Row) -> RelatedTexts:
    """Read two texts and how similar they are."""
    return RelatedTexts(
        text=some_text(row, "sentence1"),
        other=some_text(row, "sentence2"),
        score=number(row["score"], "score"),
    )
