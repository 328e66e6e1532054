"""An answer against right ones, as SQuAD compares them: exactly, and by the words in common.

    said, right answers ──exact, overlap──> 0 to 1, the best over the right answers

The definition is that of SQuAD 2.0's evaluation (Rajpurkar et al., "Know What You Don't Know",
2018, arXiv:1806.03822): case, punctuation, English articles and white space do not count; a
question without right answers is answered by saying nothing. It knows no task and no model.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """Return what of an answer counts: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact(said: str, right: Sequence[str]) -> float:
    """Return 1 where the answer is one of the right ones, else 0."""
    return _best(said, right, lambda a, b: float(a == b))


def overlap(said: str, right: Sequence[str]) -> float:
    """Return the F1 of the words in common with the right answer that is nearest."""
    return _best(said, right, _f1)


def best_span(
    begins_T: NDArray[np.float64], ends_T: NDArray[np.float64], longest: int
) -> tuple[int, int, float]:
    """Return first and last token of the best span, and its score: that of begin and end together.

    Args:
        longest: most tokens of a span.
    """
    count = len(begins_T)
    sums = [begins_T[: count - more] + ends_T[more:] for more in range(min(longest, count))]
    more = int(np.argmax([each.max() for each in sums]))
    start = int(sums[more].argmax())
    return start, start + more, float(sums[more][start])


def _best(said: str, right: Sequence[str], compare: Callable[[str, str], float]) -> float:
    known = [text for text in map(normalized, right) if text] or [""]
    return max(compare(normalized(said), text) for text in known)


def _f1(said: str, right: str) -> float:
    ours, theirs = said.split(), right.split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))
