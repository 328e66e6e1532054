"""A generated text against the right one, as translations and summaries are measured.

    said, right ──bleu_counts, chrf_counts, rouge──> counts of one record, which can be added up
    sums of counts ──bleu, chrf──> figures, 0 to 100

BLEU (Papineni et al., 2002) and chrF (Popović, 2015) are figures of a whole test set: they are made
of its sums of n-gram counts, so that a bootstrap resamples records and computes them anew. They
equal those of sacreBLEU (Post, 2018, arXiv:1804.08771), which also cuts texts into words; one right
text each. ROUGE (Lin, 2004) is a mean over records. It knows no task and no model.

Shapes: sums are arrays of any shape, and so are figures.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Sums = Mapping[str, NDArray[np.float64]]
Words = Literal["13a", "intl", "zh", "char"]
_Items = str | tuple[str, ...]

BLEU_ORDERS, CHRF_ORDERS = range(1, 5), range(1, 7)
BLEU_SUMS = (
    "bleu_said",
    "bleu_right",
    *(f"bleu_{what}_{n}" for what in ("found", "of") for n in BLEU_ORDERS),
)
CHRF_SUMS = tuple(f"chrf_{what}_{n}" for what in ("said", "right", "both") for n in CHRF_ORDERS)

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_RECALL = 4.0
"""Weight of recall in chrF: beta squared, with the usual beta of 2."""


def bleu_counts(said: str, right: str, words: Words = "13a") -> dict[str, float]:
    """Return the counts of n-grams that BLEU adds up, and the lengths in words.

    Args:
        words: sacreBLEU's name of how texts are cut into words.
    """
    found = _bleu(words).corpus_score([said], [[right]])
    counts = {"bleu_said": float(found.sys_len), "bleu_right": float(found.ref_len)}
    for n in BLEU_ORDERS:
        counts[f"bleu_found_{n}"] = float(found.counts[n - 1])
        counts[f"bleu_of_{n}"] = float(found.totals[n - 1])
    return counts


def bleu(sums: Sums) -> NDArray[np.float64]:
    """Return BLEU, 0 to 100: n-grams of up to four words, smoothed exponentially as by default."""
    said, right = (np.asarray(sums[name], float) for name in BLEU_SUMS[:2])
    logs, smooth = np.zeros_like(said), np.ones_like(said)
    whole = np.ones_like(said, dtype=bool)
    for n in BLEU_ORDERS:
        found, of = (np.asarray(sums[f"bleu_{what}_{n}"], float) for what in ("found", "of"))
        whole &= of > 0  # without n-grams of so many words there is no figure
        smooth = np.where(found == 0, 2 * smooth, smooth)
        hits = np.where(found == 0, 1 / smooth, found)
        logs += np.log(hits / np.where(of > 0, of, 1.0))
    brevity = np.minimum(0.0, 1.0 - right / np.where(said > 0, said, 1.0))
    some = sum(np.asarray(sums[f"bleu_found_{n}"], float) for n in BLEU_ORDERS) > 0
    score = 100 * np.exp(brevity + logs / len(BLEU_ORDERS))
    return np.asarray(np.where(whole & some & (said > 0), score, 0.0))


def chrf_counts(said: str, right: str) -> dict[str, float]:
    """Return the counts of runs of 1 to 6 characters that chrF adds up; white space is passed over.

    Of runs that are longer than the right text, none is counted.
    """
    counts: dict[str, float] = {}
    ours, theirs = ("".join(text.split()) for text in (said, right))
    for n in CHRF_ORDERS:
        have, want = _runs(ours, n), _runs(theirs, n)
        counts[f"chrf_said_{n}"] = float(have.total() if want else 0)
        counts[f"chrf_right_{n}"] = float(want.total())
        counts[f"chrf_both_{n}"] = float((have & want).total())
    return counts


def chrf(sums: Sums) -> NDArray[np.float64]:
    """Return chrF2, 0 to 100: F of the mean precision and the mean recall over lengths of runs."""
    first = np.asarray(sums[CHRF_SUMS[0]], float)
    precision, recall, lengths = np.zeros_like(first), np.zeros_like(first), np.zeros_like(first)
    for n in CHRF_ORDERS:
        said, right, both = (
            np.asarray(sums[f"chrf_{what}_{n}"], float) for what in ("said", "right", "both")
        )
        there = (said > 0) & (right > 0)
        precision += np.where(there, both / np.where(there, said, 1.0), 0.0)
        recall += np.where(there, both / np.where(there, right, 1.0), 0.0)
        lengths += there
    lengths = np.maximum(lengths, 1.0)
    precision, recall = precision / lengths, recall / lengths
    below = _RECALL * precision + recall
    score = 100 * (1 + _RECALL) * precision * recall / np.where(below > 0, below, 1.0)
    return np.asarray(score)


def rouge(said: str, right: str) -> dict[str, float]:
    """Return ROUGE-1, ROUGE-2 and ROUGE-L (F1, between 0 and 1) of a text against the right one.

    They equal those of the `rouge-score` package without stemming, on words of any script (its own
    tokenizer drops all but ASCII); Chinese and Japanese characters count as words of their own.
    """
    ours, theirs = (tuple(_WORDS.findall(text.lower())) for text in (said, right))
    found = {f"rouge_{n}": _shared_runs(ours, theirs, n) for n in (1, 2)}
    return {**found, "rouge_l": _f1(_common(ours, theirs), len(ours), len(theirs))}


def _shared_runs(ours: _Items, theirs: _Items, length: int) -> float:
    have, want = _runs(ours, length), _runs(theirs, length)
    return _f1((have & want).total(), have.total(), want.total())


def _f1(both: int, said: int, right: int) -> float:
    if not both:
        return 0.0
    precision, recall = both / said, both / right
    return 2 * precision * recall / (precision + recall)


def _common(ours: _Items, theirs: _Items) -> int:
    """Return the length of the longest sequence of words that both have in their order."""
    row = [0] * (len(theirs) + 1)
    for word in ours:
        corner = 0
        for place, other in enumerate(theirs, 1):
            above = row[place]
            row[place] = corner + 1 if word == other else max(above, row[place - 1])
            corner = above
    return row[-1]


def _runs(items: _Items, length: int) -> Counter[_Items]:
    """Count the runs of so many words, or of characters where `items` is a text."""
    return Counter(items[i : i + length] for i in range(len(items) - length + 1))


@functools.cache
def _bleu(words: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=words)
