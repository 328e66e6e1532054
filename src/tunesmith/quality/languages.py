"""Says in which language texts are, and which are in another than most.

    texts ──languages_of──> codes (ISO 639), None where unsure ──Mixture.of──> counts, the main ones

py3langid tells 139 languages by their byte sequences (Lui and Baldwin 2012, langid.py), anew for
each text, without a network. It is unsure of short texts, of names and of code; these count as
unsure, never as foreign.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

SURE = 0.8
"""Probability from which on a language counts as known."""
MAIN = 0.1
"""Share of the records whose language is known from which on it is one of the main ones."""
_LETTERS = 12
_READ = 2000
"""Characters of a text that are read."""


@dataclass(frozen=True)
class Mixture:
    """How many texts are in which language, the commonest first; `unsure` of so many others."""

    counts: dict[str, int]
    unsure: int

    @classmethod
    def of(cls, codes: Sequence[str | None]) -> Mixture:
        """Count languages."""
        known = Counter(code for code in codes if code is not None)
        counts = dict(sorted(known.items(), key=lambda item: (-item[1], item[0])))
        return cls(counts, sum(code is None for code in codes))

    @property
    def main(self) -> list[str]:
        """Languages that are no exception here."""
        total = sum(self.counts.values())
        return [code for code, count in self.counts.items() if count >= MAIN * total]


def languages_of(texts: Sequence[str]) -> list[str | None]:
    """Return the language of each text, or None where that is not sure."""
    return [_language_of(text) for text in texts]


def _language_of(text: str) -> str | None:
    text = text[:_READ]
    if sum(character.isalpha() for character in text) < _LETTERS:
        return None
    code, probability = _identifier().classify(text)
    return str(code) if probability >= SURE and code != "zxx" else None  # zxx: no language


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
