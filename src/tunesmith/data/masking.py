"""Hides some tokens of a text, to be found again from those around them.

    ids, key ──Masking.hide──> ids with gaps, and for each gap what stood there

What is hidden is drawn from the key and the tokens alone: the same text under the same key has the
same gaps, in whatever order or run it comes up. Each of a stated share of the tokens (at least one)
becomes the mask token, a random one, or stays as it is and must be found all the same (Devlin et
al., 2018, arXiv:1810.04805). It knows no model and no tokenizer, only numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tunesmith.data.batch import NO_CLASS, Encoded, EncodedStream


@dataclass(frozen=True)
class Masking:
    """How tokens are hidden.

    Attributes:
        share: of the tokens that are hidden.
        masked: share of these that become the mask token.
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

    def hide(self, ids: Sequence[int], key: Sequence[int]) -> EncodedStream:
        """Return a text with gaps; `classes` say what stood there."""
        text = np.array(ids)
        generator = np.random.default_rng([*key, _digest(text)])
        room = len(text) - self.before - self.behind
        count = max(1, round(self.share * room))
        chosen = np.sort(generator.permutation(room)[:count]) + self.before
        drawn = generator.random(count)
        stand_ins = generator.choice(self.others, count)
        classes = np.full(len(text), NO_CLASS)
        classes[chosen] = text[chosen]
        masked = drawn < self.masked
        random = ~masked & (drawn < self.masked + self.random)
        text[chosen[masked]] = self.mask_id
        text[chosen[random]] = stand_ins[random]
        return EncodedStream(tuple(text.tolist()), classes=tuple(classes.tolist()))

    def again(self, example: Encoded, key: Sequence[int]) -> Encoded:
        """Return an example with other gaps, drawn from another key."""
        return replace(example, streams={"text": self.hide(shown(example), key)})


def shown(example: Encoded) -> list[int]:
    """Return the tokens of an example with nothing hidden."""
    stream = example.streams["text"]
    classes = stream.classes or (NO_CLASS,) * len(stream.ids)
    pairs = zip(stream.ids, classes, strict=True)
    return [token if stood == NO_CLASS else stood for token, stood in pairs]


def _digest(ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    digest = hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
