"""Which token says what a word is: its first.

    TaggedText, tokenizer ──align──> Aligned(ids, first token of each word)

A word that shares its first token with the word before (`."` in some vocabularies) goes with that
one; a word that the tokenizer leaves out altogether (control characters) has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.data.frame import encoded_text
from tunesmith.data.records import Entity, TaggedText
from tunesmith.errors import UnlearnableError


@dataclass(frozen=True)
class Aligned:
    """A text in tokens, and the words that have a first token of their own: those that decide.

    Attributes:
        ids: all tokens, without any that a tokenizer puts around a text.
        firsts: the first token of each deciding word.
        words: where each of them stands among all words.
        behind: the word behind those that it speaks for: itself, and any that share its token.
    """

    ids: list[int]
    firsts: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)

    def narrowed(self, entities: Sequence[Entity]) -> list[Entity]:
        """Return entities of all words as entities of the deciding ones; some may have none."""
        found = []
        for entity in entities:
            inside = [p for p, word in enumerate(self.words) if entity.start <= word < entity.end]
            if inside:
                found.append(Entity(start=inside[0], end=inside[-1] + 1, label=entity.label))
        return found

    def widened(self, entities: Sequence[Entity]) -> list[Entity]:
        """Return entities of the deciding words as entities of all words."""
        return [
            Entity(start=self.words[e.start], end=self.behind[e.end - 1], label=e.label)
            for e in entities
        ]


def align(tokenizer: Any, record: TaggedText) -> Aligned:
    """Find the first token of each word.

    Args:
        tokenizer: a fast one, which says where its tokens stand.

    Raises:
        UnlearnableError: no word has a token.
    """
    encoded = encoded_text(tokenizer, record.text, places=True)
    aligned = Aligned(list(encoded["input_ids"]))
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    token = 0
    for place, (start, end) in enumerate(record.words):
        while token < len(offsets) and offsets[token][1] <= start:
            token += 1
        if token == len(offsets) or offsets[token][0] >= end:
            continue
        if aligned.firsts and aligned.firsts[-1] == token:
            aligned.behind[-1] = place + 1
            continue
        aligned.firsts.append(token)
        aligned.words.append(place)
        aligned.behind.append(place + 1)
    if not aligned.firsts:
        raise UnlearnableError(
            "The text has no tokens.", fix="Remove the record, or give it a text."
        )
    return aligned
