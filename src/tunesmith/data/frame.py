"""What a tokenizer puts around texts: its own tokens before, between and behind them.

Found out by laying out single letters. It knows no model and imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


def around(tokenizer: Any, *, target: bool = False) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before and behind every text.

    Args:
        target: of texts that are written, where these are laid out otherwise than those read.
    """
    text = {"text_target" if target else "text": "a"}
    probe = tokenizer(**text, return_special_tokens_mask=True)
    ids, special = list(probe["input_ids"]), list(probe["special_tokens_mask"])
    begin = special.index(0)
    end = len(special) - special[::-1].index(0)
    return ids[:begin], ids[end:]


@dataclass(frozen=True)
class Frame:
    """What a tokenizer puts around a pair of texts.

    Attributes:
        before, between, behind: its own tokens at these places.
        types: of the tokens before, of the first text, between, of the second text and behind;
            None where it gives none.
    """

    before: list[int]
    between: list[int]
    behind: list[int]
    types: tuple[list[int], int, list[int], int, list[int]] | None

    @classmethod
    def of(cls, tokenizer: Any) -> Frame:
        """Find out how a tokenizer lays out a pair."""
        probe = tokenizer("a", "b", return_special_tokens_mask=True)
        ids, special = list(probe["input_ids"]), list(probe["special_tokens_mask"])
        one, two = (
            len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("a", "b")
        )
        begin, end = special.index(0), len(special) - special[::-1].index(0)
        inside = slice(begin + one, end - two)
        given = probe.get("token_type_ids")
        types = None
        if given is not None:
            types = given[:begin], given[begin], given[inside], given[end - 1], given[end:]
        return cls(ids[:begin], ids[inside], ids[end:], types)
