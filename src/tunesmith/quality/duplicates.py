"""Finds records that say the same, exactly or nearly: they weigh more than they should.

    records ──find_duplicates──> Duplicates

Exact means equal without regard to case and white space; the label does not count, so that one
text under two labels is found, and named as a contradiction. What to do about them is the user's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from tunesmith.data.records import (
    LabelledText,
    MultiLabelledText,
    ScoredText,
    TaggedText,
    content_key,
    text_of,
)
from tunesmith.quality.similarity import Signatures

THRESHOLD = 0.7
"""Similarity from which on two texts are nearly the same."""
_COMPARED = 8
"""How many of a bucket each text in it is compared with, the last ones that are alike none."""


@dataclass(frozen=True)
class Pair:
    """Two places in the records (or in two sets of records), and how alike they are (0 to 1)."""

    first: int
    second: int
    similarity: float


@dataclass(frozen=True)
class Duplicates:
    """Records that say the same.

    Attributes:
        exact: groups of places of equal records, each of two or more.
        near: records that are alike an earlier one (`second`, `first`), the most alike first. What
            is alike an earlier one is named as nobody's `first`: where every `second` goes, each
            has its like among those that stay.
        contradictions: those groups of `exact` whose records have different labels.
    """

    exact: list[list[int]]
    near: list[Pair]
    contradictions: list[list[int]]

    @property
    def repeated(self) -> int:
        """How many records could go if one of each exact group stayed."""
        return sum(len(group) - 1 for group in self.exact)


def find_duplicates(records: Sequence[BaseModel], threshold: float = THRESHOLD) -> Duplicates:
    """Return exact and near duplicates among `records`.

    Args:
        threshold: similarity from which on two records are near duplicates.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        places[content_key(record)].append(i)
    exact = [group for group in places.values() if len(group) > 1]
    firsts = [group[0] for group in places.values()]
    signatures = Signatures([text_of(records[i]) for i in firsts])
    near = [
        Pair(firsts[pair.first], firsts[pair.second], pair.similarity)
        for pair in _alike(signatures, threshold)
    ]
    near.sort(key=lambda pair: (-pair.similarity, pair.first, pair.second))
    return Duplicates(exact, near, [group for group in exact if _contradicts(records, group)])


def _alike(signatures: Signatures, threshold: float) -> Iterator[Pair]:
    """Pair each text that is alike an earlier one, which is alike none, with the most alike."""
    buckets_of: dict[int, list[list[int]]] = defaultdict(list)
    for bucket in signatures.candidates():
        apart: list[int] = []  # those of the bucket that are alike none before them
        for place in bucket:
            buckets_of[place].append(apart)
    for place in sorted(buckets_of):
        earlier = {other for apart in buckets_of[place] for other in apart[-_COMPARED:]}
        found = [Pair(other, place, signatures.jaccard(other, place)) for other in sorted(earlier)]
        nearest = max(found, key=lambda pair: pair.similarity, default=None)
        if nearest is not None and nearest.similarity >= threshold:
            yield nearest
            continue
        for apart in buckets_of[place]:
            apart.append(place)


def _contradicts(records: Sequence[BaseModel], group: Sequence[int]) -> bool:
    answers = {_answer(records[i]) for i in group}
    return len(answers) > 1


def _answer(record: BaseModel) -> object:
    """Return what is to be learnt of a record whose text alone decides what it is."""
    if isinstance(record, TaggedText):
        return tuple((entity.label, record.said(entity)) for entity in record.entities)
    if isinstance(record, MultiLabelledText):
        return frozenset(record.labels)
    if isinstance(record, ScoredText):
        return record.score
    return record.label if isinstance(record, LabelledText) else None
