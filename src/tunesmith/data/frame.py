"""What a tokenizer makes of a text, and which tokens of its own it puts around it.

    text ──text_ids──> the text's own ids       tokenizer ──around, Frame.of──> what stands beside

What stands beside texts is found out by laying out single letters. It knows no model and imports no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


def text_ids(tokenizer: Any, text: str, *, target: bool = False) -> list[int]:
    """Return the tokens of a text, with nothing around it; look-alikes of special tokens are text.

    Args:
        target: it is one that is written, where these are laid out otherwise than those read.
    """
    return list(encoded_text(tokenizer, text, target=target)["input_ids"])


def encoded_text(tokenizer: Any, text: str, *, target: bool = False, places: bool = False) -> Any:
    """Return what a tokenizer makes of a text alone, as `text_ids`.

    Args:
        places: with `offset_mapping`, which says where in the text each token stands.
    """
    asked = {"return_offsets_mapping": True} if places else {}
    return tokenizer(
        **_as_text(text, target),
        **asked,
        add_special_tokens=False,
        split_special_tokens=True,
        verbose=False,
    )


def around(tokenizer: Any, *, target: bool = False) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before and behind every text.

    Args:
        target: of texts that are written, where these are laid out otherwise than those read.
    """
    probe = tokenizer(**_as_text("a", target), return_special_tokens_mask=True)
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


def _as_text(text: str, target: bool) -> dict[str, str]:
    return {"text_target" if target else "text": text}
