"""Finds test records that were learnt from: in train exactly, nearly, or with another answer.

    train, test ──find_leaks──> Leaks

A leak makes the verdict too good. Pairs name the place in test first, then that in train.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from tunesmith.data.records import Conversation, TextPair, content_key, text_of
from tunesmith.quality.duplicates import THRESHOLD, Pair
from tunesmith.quality.similarity import Signatures

_COMPARED = 8
"""How many train records of a bucket each test record in it is compared with."""


@dataclass(frozen=True)
class Leaks:
    """Test records that stand in train.

    Attributes:
        exact: equal records (`first` in test, `second` in train).
        near: the nearest train record of each test record that has one alike and none equal, the
            most alike first.
        same_prompt: conversations that ask the same but are answered differently; likewise sources
            with other targets.
        tested: how many records the test set has.
    """

    exact: list[Pair]
    near: list[Pair]
    same_prompt: list[Pair]
    tested: int

    @property
    def share(self) -> float:
        """Share of the test set that stands in train exactly."""
        return len(self.exact) / self.tested if self.tested else 0.0


def find_leaks(
    train: Sequence[BaseModel], test: Sequence[BaseModel], threshold: float = THRESHOLD
) -> Leaks:
    """Return what of `test` stands in `train`.

    Args:
        threshold: similarity from which on two records are nearly the same.
    """
    place_of = _places(map(content_key, train))
    exact = [
        Pair(i, place_of[key], 1.0)
        for i, record in enumerate(test)
        if (key := content_key(record)) in place_of
    ]
    equal = {pair.first for pair in exact}
    asked = _places(_prompt(record) for record in train)
    same_prompt = [
        Pair(i, asked[prompt], 1.0)
        for i, record in enumerate(test)
        if i not in equal and (prompt := _prompt(record)) and prompt in asked
    ]
    near = [pair for pair in _nearest(train, test, threshold) if pair.first not in equal]
    return Leaks(exact, near, same_prompt, len(test))


def _places(keys: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, i)
    return found


def _prompt(record: BaseModel) -> str:
    if isinstance(record, TextPair):
        return " ".join(record.source.casefold().split())
    if not isinstance(record, Conversation):
        return ""
    return content_key(Conversation.model_construct(messages=record.prompt))


def _nearest(train: Sequence[BaseModel], test: Sequence[BaseModel], threshold: float) -> list[Pair]:
    signatures = Signatures([text_of(record) for record in [*train, *test]])
    count = len(train)
    compared: set[tuple[int, int]] = set()
    best: dict[int, Pair] = {}
    for bucket in signatures.candidates():
        learnt = [i for i in bucket if i < count][:_COMPARED]
        for i in bucket:
            for other in learnt if i >= count else ():
                if (i, other) in compared:
                    continue
                compared.add((i, other))
                similarity = signatures.jaccard(i, other)
                known = best.get(i - count)
                if similarity >= threshold and (known is None or similarity > known.similarity):
                    best[i - count] = Pair(i - count, other, similarity)
    return sorted(best.values(), key=lambda pair: (-pair.similarity, pair.first))
