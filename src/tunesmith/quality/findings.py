"""What a close look at records finds: one noun for all of it.

    records ──labels, duplicates, leaks, conflicts, outliers, answers, …──> Finding

A finding is something to look at, not a verdict: each says why it is one. What to do about it is
the user's choice (`tunesmith clean`). The kinds are named here, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

KINDS = {
    "duplicate": "the same as an earlier record",
    "near_duplicate": "nearly the same as an earlier record",
    "leak": "a record of test or validation that stands in train, or asks what train asks",
    "conflict": "one prompt, or one text, with different answers",
    "wrong_label": "a label that an encoder fitted to the other records would not give",
    "outlier": "a text that is unlike all others",
    "length": "far shorter or longer than the others",
    "refusal": "an answer that refuses, or speaks as an AI",
    "boilerplate": "phrases that say nothing, or what a web page left behind",
    "personal": "personal data, or a secret",
    "language": "in another language than the others",
}
"""Every kind of finding, and what it is."""


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Attributes:
        kind: a name of `KINDS`.
        place: which record, by its place in what was looked at.
        reason: why, in a sentence that can stand alone.
        score: how clear it is, on a scale of its kind; findings of a kind are ordered by it.
        suggestion: what would mend it: the label that it should have, where that can be said.
    """

    kind: str
    place: int
    reason: str
    score: float = 1.0
    suggestion: str | None = None


@dataclass(frozen=True)
class Looked:
    """What one look covered: how many records were looked at, and why not more, if so."""

    kind: str
    records: int
    remark: str = ""


def in_order(findings: list[Finding]) -> list[Finding]:
    """Return findings by kind, in the order of `KINDS`, the clearest of each first."""
    rank = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(findings, key=lambda one: (rank[one.kind], -one.score, one.place))


def shortened(text: str, most: int = 60) -> str:
    """Return the beginning of a text, for a reason to show."""
    return text if len(text) <= most else f"{text[:most]}…"
