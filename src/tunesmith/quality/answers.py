"""Finds answers that refuse, phrases that say nothing, and what web pages leave in texts.

    answers ──find_refusals, find_boilerplate──> (place, reason)

Two ways: phrases that are known (English, with the commonest of German, French and Spanish), and
what the records themselves repeat: an opening, an ending or a whole answer that many of them share.
A model learns such habits first, as they are the easiest to learn. What stands in a code block is
passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tunesmith.quality.findings import shortened

_REFUSALS = (
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    r"\bi(?:'m| am) (?:just |only )?an? (?:ai|(?:large )?language model)\b",
    r"\bi(?:'m| am)(?: very| so)? sorry,? but (?:i|as)\b",
    r"\bi(?:'m| am) (?:unable|not able) to (?:help|assist|provide|answer|comply|fulfil)\w*\b",
    r"\bi (?:can't|cannot|can not|won't|will not) (?:help|assist|comply|provide|answer|fulfil)",
    r"\bi (?:do not|don't) (?:have|possess) (?:personal|feelings|opinions|the ability|access to)",
    r"\bmy (?:knowledge cut-?off|training data (?:only|ends))\b",
    r"\bes tut mir leid,? (?:aber )?(?:ich|als)\b",
    r"\bals (?:ki|sprachmodell|ki-sprachmodell)\b",
    r"\bje suis désolée?,? mais je\b",
    r"\ben tant qu(?:e|')\s?(?:modèle de langage|ia)\b",
    r"\blo siento,? pero (?:no|como)\b",
    r"\bcomo modelo de lenguaje\b",
)
_FILLERS = (
    r"\bi hope (?:this|that) (?:helps|email finds you)\b",
    r"\b(?:please )?(?:let me know|feel free to ask) if (?:you (?:have|need)|there)\b",
    r"\bis there anything else (?:i|you)\b",
    r"^(?:certainly|absolutely|of course|sure(?: thing)?|great question|good question)[!,.]",
    r"\bin conclusion, it is important to (?:note|remember)\b",
    r"\ball rights reserved\b",
    r"\b(?:click here|read more|subscribe to our newsletter|accept (?:all )?cookies)\b",
    r"\blorem ipsum\b",
)
_MARKUP = (
    r"&(?:amp|lt|gt|quot|nbsp|apos|#x?[0-9a-f]{2,6});",
    r"</?(?:p|br|div|span|li|ul|ol|td|tr|table|strong|em|font|img|script|style)(?:\s[^<>]*)?/?>",
)
_REFUSAL = re.compile("|".join(_REFUSALS), re.IGNORECASE)
_FILLER = re.compile("|".join(_FILLERS), re.IGNORECASE | re.MULTILINE)
_LEFT_BY_PAGES = re.compile("|".join(_MARKUP), re.IGNORECASE)
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_APOSTROPHES = str.maketrans("’‘", "''")

_EDGE = 5
"""Words of an opening or an ending that are compared."""
_WHOLE = 4
"""Fewer words than this are a short answer that may well be right often ("Yes.")."""
_MANY, _SHARE = 10, 0.05
"""So many records, and this share of them, say the same before it is a habit."""


def find_refusals(answers: Sequence[str]) -> list[tuple[int, str]]:
    """Return the places of answers that refuse or speak as an AI, and the words that say so."""
    found = []
    for place, answer in enumerate(answers):
        hit = _REFUSAL.search(_plain(answer))
        if hit:
            found.append((place, f"says “{_around(hit)}”"))
    return found


def find_boilerplate(texts: Sequence[str]) -> list[tuple[int, str]]:
    """Return the places of texts with phrases that say nothing, and which."""
    plain = [_plain(text) for text in texts]
    habits = _habits(plain)
    found = []
    for place, text in enumerate(plain):
        reasons = [f"has the filler “{_around(hit)}”" for hit in [_FILLER.search(text)] if hit]
        reasons += [f"has markup: {hit[0]}" for hit in [_LEFT_BY_PAGES.search(text)] if hit]
        reasons += habits.get(place, [])
        if reasons:
            found.append((place, "; ".join(reasons)))
    return found


def _habits(texts: Sequence[str]) -> dict[int, list[str]]:
    """Return, by place, what of a text many others have as well."""
    words = [text.split() for text in texts]
    long = [place for place, said in enumerate(words) if len(said) >= 2 * _EDGE]
    found: dict[int, list[str]] = {}
    whole = {p: " ".join(said).casefold() for p, said in enumerate(words) if len(said) >= _WHOLE}
    _count(whole, "is word for word that of", found)
    # One that is repeated whole is one habit, not a habit of its opening as well.
    first: dict[str, int] = {}
    distinct = [p for p in long if first.setdefault(whole[p], p) == p]
    openings = {p: " ".join(words[p][:_EDGE]).casefold() for p in distinct}
    endings = {p: " ".join(words[p][-_EDGE:]).casefold() for p in distinct}
    _count(openings, "begins like", found)
    _count(endings, "ends like", found)
    return found


def _count(said: dict[int, str], how: str, found: dict[int, list[str]]) -> None:
    counts = Counter(said.values())
    least = max(_MANY, _SHARE * len(said))
    for place, text in said.items():
        if counts[text] >= least:
            others = counts[text] - 1
            found.setdefault(place, []).append(f"{how} {others} others: “{shortened(text)}”")


def _plain(text: str) -> str:
    return _CODE.sub(" ", text.translate(_APOSTROPHES))


def _around(hit: re.Match[str]) -> str:
    return shortened(" ".join(hit[0].split()))
