"""Finds texts that are nearly the same: MinHash over pairs of words, then exact similarity.

    texts ──Signatures──> sets of shingles and their MinHash
    Signatures ──candidates──> pairs that may be alike ──jaccard──> pairs that are

A shingle is a pair of neighbouring words without regard to case and punctuation. The similarity of
two texts is the Jaccard index of their shingles: shared over all. MinHash (Broder 1997) estimates
it; banding (Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*, ch. 3) finds candidates
without comparing all pairs: with 24 bands of 4 rows, 99.8% of the pairs at similarity 0.7.
Deterministic: the hashes come from a fixed seed. Records are not known here, only texts.

Shapes: N texts, S shingles of all of them, P hashes.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

BANDS, ROWS = 24, 4
_WORD = re.compile(r"\w+|[^\w\s]")
_LETTERS = re.compile(r"\w+")


class Signatures:
    """Shingles and MinHash of some texts.

    Args:
        texts: any; one without a word is like no other.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        hash_of = _WordHashes()
        self.shingles = [_shingles(text, hash_of) for text in texts]
        self._hashes_NP = _min_hashes(self.shingles)

    def candidates(self) -> Iterator[list[int]]:
        """Yield, for each band, the places of texts that agree in it."""
        filled = [i for i, shingles in enumerate(self.shingles) if len(shingles)]
        for band in range(BANDS):
            columns = self._hashes_NP[:, band * ROWS : (band + 1) * ROWS]
            buckets: dict[bytes, list[int]] = defaultdict(list)
            for i in filled:
                buckets[columns[i].tobytes()].append(i)
            yield from (bucket for bucket in buckets.values() if len(bucket) > 1)

    def jaccard(self, one: int, other: int) -> float:
        """Return the similarity of two of the texts, from 0 to 1."""
        a, b = self.shingles[one], self.shingles[other]
        shared = len(np.intersect1d(a, b, assume_unique=True))
        return shared / (len(a) + len(b) - shared) if shared else 0.0


class _WordHashes(dict[str, int]):
    """Hashes of words, each computed once."""

    def __missing__(self, word: str) -> int:
        return self.setdefault(word, zlib.crc32(word.encode()))


def _shingles(text: str, hash_of: _WordHashes) -> NDArray[np.uint64]:
    """Return the distinct hashes of neighbouring words; of the words alone if there is but one."""
    folded = text.casefold()
    words = _LETTERS.findall(folded) or _WORD.findall(folded)
    if not words:
        return np.zeros(0, dtype=np.uint64)
    hashes = np.fromiter(map(hash_of.__getitem__, words), np.uint64, len(words))
    if len(hashes) > 1:
        hashes = hashes[:-1] * np.uint64(0x9E3779B97F4A7C15) + hashes[1:]
    return np.unique(hashes)


def _min_hashes(shingles: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint32]:
    count = BANDS * ROWS
    smallest_NP = np.zeros((len(shingles), count), dtype=np.uint32)
    filled = [i for i, values in enumerate(shingles) if len(values)]
    if not filled:
        return smallest_NP
    all_S = np.concatenate([shingles[i] for i in filled])
    starts = np.cumsum([0, *(len(shingles[i]) for i in filled[:-1])])
    generator = np.random.default_rng(20)
    factors = generator.integers(1, 2**63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = generator.integers(0, 2**63, count, dtype=np.uint64)
    for p in range(count):
        hashed_S = ((all_S * factors[p] + offsets[p]) >> np.uint64(32)).astype(np.uint32)
        smallest_NP[filled, p] = np.minimum.reduceat(hashed_S, starts)
    return smallest_NP
