"""Words, tags and entities: the ways to write down what is named in a text.

    tags ──read_tags──> entities ──write_tags──> tags        in BIO, IOBES or BILOU
    text ──words_of──> where each word lies ──entities_of_spans──> entities

A tag is `O`, or a letter and a label (`B-PER`). In BIO an entity is `B` and then `I`s; IOBES marks
its end (`E`) and an entity of one word (`S`) as well, and BILOU is IOBES with `L` for `E` and `U`
for `S`. IOB1, the oldest, has `B` only where an entity follows another of the same label. Sequences
that no scheme allows are read as conlleval does (Tjong Kim Sang & De Meulder, 2003), which is what
seqeval computes too: what a model says need not be legal.

It knows no files, tokenizers or models.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from tunesmith.data.records import Entity

Scheme = Literal["bio", "iobes", "bilou"]
OUTSIDE = "O"

_TAG = re.compile(r"O|[BIESLU]-\S.*")
_LETTERS: dict[Scheme, tuple[str, str, str, str]] = {
    "bio": ("B", "I", "I", "B"),
    "iobes": ("B", "I", "E", "S"),
    "bilou": ("B", "I", "L", "U"),
}
"""Of each scheme: the letters of an entity's first, inner and last word, and of a single one."""
_SAME = str.maketrans("LU", "ES")
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),  # Han
)  # fmt: skip
"""Scripts that put no space between words: each of their characters is a word of its own here."""


def is_tag(tag: str) -> bool:
    """Return whether a text is a tag of one of the schemes."""
    return _TAG.fullmatch(tag) is not None


def labels_in(labels: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Return every tag that a scheme has for these labels, `O` first."""
    letters = dict.fromkeys(_LETTERS[scheme])
    return (OUTSIDE, *(f"{letter}-{label}" for label in labels for letter in letters))


def scheme_of(tags: Iterable[str]) -> Scheme | None:
    """Return the scheme that has all these tags; None where no scheme has them all."""
    letters = {tag[0] for tag in tags if tag != OUTSIDE}
    schemes: tuple[Scheme, ...] = ("bio", "iobes", "bilou")
    return next((s for s in schemes if letters <= set(_LETTERS[s])), None)


def read_tags(tags: Sequence[str]) -> list[Entity]:
    """Return the entities that tags of any scheme mark, legal or not.

    An entity goes on where a tag continues (`I`, `E`) what has the same label and has not ended.
    """
    found: list[Entity] = []
    start, before, label = 0, OUTSIDE, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        letter, _, named = tag.partition("-")
        letter = letter.translate(_SAME)
        if not (letter in "IE" and before in "BI" and named == label):
            if before != OUTSIDE:
                found.append(Entity(start=start, end=place, label=label))
            start, label = place, named
        before = letter
    return found


def write_tags(entities: Sequence[Entity], words: int, scheme: Scheme) -> list[str]:
    """Return the tag of each word."""
    first, inner, last, single = _LETTERS[scheme]
    tags = [OUTSIDE] * words
    for entity in entities:
        size = entity.end - entity.start
        letters = single if size == 1 else first + inner * (size - 2) + last
        for place, letter in enumerate(letters, start=entity.start):
            tags[place] = f"{letter}-{entity.label}"
    return tags


def read_iob1(tags: Sequence[str]) -> tuple[list[Entity], list[str]]:
    """Return the entities of IOB1 tags, and the tags that IOB1 has for them."""
    entities = read_tags(tags)
    legal = write_tags(entities, len(tags), "bio")
    for before, entity in zip([None, *entities], entities, strict=False):
        touches = before and (before.end, before.label) == (entity.start, entity.label)
        if not touches:
            legal[entity.start] = f"I-{entity.label}"
    return entities, legal


def words_of(text: str) -> list[tuple[int, int]]:
    """Return where each word of a text begins and ends.

    A word is a run of letters, marks and digits, or one character of anything else that is not
    white space; characters of scripts without spaces (Chinese, Japanese, Thai) stand alone.
    """
    words: list[tuple[int, int]] = []
    joins = False  # whether the word before can go on
    for place, character in enumerate(text):
        kind = unicodedata.category(character)
        if character.isspace() or kind == "Cf":
            joins = False
            continue
        if words and words[-1][1] == place and (kind[0] == "M" or (joins and kind[0] in "LN")):
            words[-1] = (words[-1][0], place + 1)
            continue
        words.append((place, place + 1))
        joins = kind[0] in "LN" and not any(
            low <= ord(character) <= high for low, high in _UNSPACED
        )
    return words


def entities_of_spans(
    words: Sequence[tuple[int, int]], spans: Iterable[tuple[int, int, str]]
) -> list[Entity]:
    """Turn spans of characters, in order, into entities.

    Raises:
        KeyError: a span does not begin and end where a word does; holds its place among the spans.
    """
    begins = {start: place for place, (start, _) in enumerate(words)}
    ends = {end: place + 1 for place, (_, end) in enumerate(words)}
    found = []
    for number, (start, end, label) in enumerate(spans):
        if start not in begins or end not in ends:
            raise KeyError(number)
        found.append(Entity(start=begins[start], end=ends[end], label=label))
    return found
