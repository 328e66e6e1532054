"""Hides some tokens of a text, to be found again from those around them.

    ids, key ──Masking.hide──> ids with gaps, and for each gap what stood there

What is hidden is drawn from the key and the tokens alone: the same text under the same key has the
same gaps, in whatever order or run it comes up. Each of a stated share of the tokens (at least one)
becomes the mask token, a random one, or stays as it is and must be found all the same (Devlin et
al., 2018, arXiv:1810.04805). Where the words are told, the share is that of the words, and all
tokens of a word are hidden together. It knows no model and no tokenizer, only numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunesmith.data.batch import NO_CLASS, NO_WORD, Encoded, EncodedStream


@dataclass(frozen=True)
class Masking:
    """How tokens are hidden.

    Attributes:
        share: of the tokens (or words) that are hidden.
        masked: share of the hidden tokens that become the mask token.
        random: share of these that become some other token; the rest stays.
        mask_id: the mask token.
        others: the tokens that may stand in.
        before, behind: how many tokens at both ends are the tokenizer's own, and stay.
    """

    share: float
    masked: float
    random: float
    mask_id: int
    others: tuple[int, ...]
    before: int
    behind: int

    def hide(
        self, ids: Sequence[int], key: Sequence[int], words: tuple[int, ...] | None = None
    ) -> EncodedStream:
        """Return a text with gaps; `classes` say what stood there.

        Args:
            words: the number of each token's word; whole words are then hidden.
        """
        text = np.array(ids)
        generator = np.random.default_rng([*key, _digest(text)])
        if words is None:
            room = len(text) - self.before - self.behind
            chosen = np.sort(self._some(generator.permutation(room))) + self.before
        else:
            told = sorted({*words} - {NO_WORD})
            chosen = np.flatnonzero(np.isin(words, self._some(generator.permutation(told))))
        count = len(chosen)
        drawn = generator.random(count)
        stand_ins = generator.choice(self.others, count)
        classes = np.full(len(text), NO_CLASS)
        classes[chosen] = text[chosen]
        masked = drawn < self.masked
        random = ~masked & (drawn < self.masked + self.random)
        text[chosen[masked]] = self.mask_id
        text[chosen[random]] = stand_ins[random]
        return EncodedStream(tuple(text.tolist()), classes=tuple(classes.tolist()), words=words)

    def _some(self, shuffled: np.ndarray[tuple[int], Any]) -> np.ndarray[tuple[int], Any]:
        return shuffled[: max(1, round(self.share * len(shuffled)))]

    def again(self, example: Encoded, key: Sequence[int]) -> Encoded:
        """Return an example with other gaps, drawn from another key."""
        words = example.streams["text"].words
        return replace(example, streams={"text": self.hide(shown(example), key, words)})


def shown(example: Encoded) -> list[int]:
    """Return the tokens of an example with nothing hidden."""
    stream = example.streams["text"]
    classes = stream.classes or (NO_CLASS,) * len(stream.ids)
    pairs = zip(stream.ids, classes, strict=True)
    return [token if stood == NO_CLASS else stood for token, stood in pairs]


def _digest(ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    digest = hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
