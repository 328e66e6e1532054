"""What there is to know of a model's tokenizer, and what in it has hurt people.

    tokenizer, configuration ──tokenizer_facts──> TokenizerFacts
                             ──hazards──> Hazard(code, what, fix) …

A hazard is no error: Tunesmith trains such models right (it masks padding by place, not by id, and
trains the tokens that end a turn). It is what other trainers and servers stumble over, or what the
user has to decide. No weight is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.models.kinds import DECODER, ENCODER

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SPARE = re.compile(r"<\|?(reserved|extra|unused)[\w|-]*>|\[unused\d+\]", re.IGNORECASE)
_FAR = 10**9
"""A tokenizer's length from here on means that it states none."""


@dataclass(frozen=True)
class SpecialToken:
    """A token with a role (`eos`), as text and as id."""

    role: str
    text: str
    id: int


@dataclass(frozen=True)
class TokenizerFacts:
    """What a tokenizer is.

    Attributes:
        algorithm: `BPE`, `WordPiece`, `Unigram` …
        byte_level: whether any text can be written in its tokens.
        size: how many tokens it has; `spare_rows` is how many more the embedding has.
        special: tokens with a role.
        reserved: tokens that are kept for the user's own use and mean nothing yet.
        adds: the special tokens that it puts around every text, as `<s> … </s>`.
        chat_template: whether it has one.
        longest: the length that it states, in tokens; None where it states none.
    """

    algorithm: str
    byte_level: bool
    size: int
    spare_rows: int | None
    special: tuple[SpecialToken, ...]
    reserved: int
    adds: str
    chat_template: bool
    longest: int | None


@dataclass(frozen=True)
class Hazard:
    """Something that has hurt people with such a tokenizer.

    Attributes:
        level: `note` (good to know), `warning` (decide something), `broken` (cannot work).
        code: a stable name.
    """

    level: Literal["note", "warning", "broken"]
    code: str
    what: str
    fix: str


def tokenizer_facts(tokenizer: Any, rows: int | None) -> TokenizerFacts:
    """Return what `tokenizer` is.

    Args:
        rows: how many rows the model's embedding has, where that is known.
    """
    core = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    vocabulary = tokenizer.get_vocab()
    special = tuple(
        SpecialToken(role, text, vocabulary[text])
        for role in _ROLES
        if isinstance(text := getattr(tokenizer, f"{role}_token", None), str) and text in vocabulary
    )
    longest = tokenizer.model_max_length
    return TokenizerFacts(
        algorithm=str(core.get("model", {}).get("type", type(tokenizer).__name__)),
        byte_level=_reaches_every_byte(core),
        size=len(tokenizer),
        spare_rows=None if rows is None else rows - len(tokenizer),
        special=special,
        reserved=sum(bool(_SPARE.fullmatch(token)) for token in vocabulary),
        adds=_around(tokenizer),
        chat_template=bool(tokenizer.chat_template),
        longest=int(longest) if longest < _FAR else None,
    )


def hazards(
    tokenizer: Any,
    facts: TokenizerFacts,
    config: Mapping[str, Any],
    kind: str,
    context: int | None,
) -> tuple[Hazard, ...]:
    """Return what may hurt with this tokenizer on a model of `kind`, the worst first.

    Args:
        config: the model's configuration.
        context: the model's context length in tokens; None where it has no limit.
    """
    found = [
        *_of_padding(facts, kind),
        *_of_specials(facts, config, kind),
        *_of_template(tokenizer, facts, kind),
        *_of_sizes(facts, context),
    ]
    if not tokenizer.is_fast:
        found.append(
            Hazard(
                "warning",
                "no_offsets",
                "It is a slow tokenizer: it does not say where in the text a token stands.",
                "Tasks that mark places in a text need a fast one (tokenizer.json).",
            )
        )
    order = ("broken", "warning", "note")
    return tuple(sorted(found, key=lambda hazard: order.index(hazard.level)))


def _of_padding(facts: TokenizerFacts, kind: str) -> Iterator[Hazard]:
    ids = {token.role: token for token in facts.special}
    pad, end = ids.get("pad"), ids.get("eos")
    if pad is None:
        yield Hazard(
            "note" if kind == DECODER else "warning",
            "no_pad_token",
            "There is no padding token.",
            "Tunesmith packs and needs none, and names one where a reader does; in other trainers "
            "do not take the end token for it.",
        )
    elif end is not None and pad.id == end.id:
        yield Hazard(
            "warning",
            "pad_is_end",
            f"Padding and end are the same token ({end.text}): a trainer that masks padding by its "
            "id also masks the end, and the model never learns to stop.",
            "Tunesmith masks by place, so the end is learnt; other trainers need a pad token of "
            "its own.",
        )


def _of_specials(facts: TokenizerFacts, config: Mapping[str, Any], kind: str) -> Iterator[Hazard]:
    by_role = {token.role: token for token in facts.special}
    needed = {DECODER: ("eos",), ENCODER: ("cls", "sep", "mask")}.get(kind, ())
    missing = [role for role in needed if role not in by_role]
    if missing:
        yield Hazard(
            "warning",
            "missing_special_tokens",
            f"It has no {' and no '.join(missing)} token.",
            "A decoder without an end does not stop by itself; an encoder without a mask cannot "
            "learn by filling in.",
        )
    if not facts.byte_level and "unk" not in by_role:
        yield Hazard(
            "warning",
            "unknown_is_dropped",
            "It has no token for what it does not know: unknown letters vanish without a trace.",
            "Look at records of your own with `tunesmith check RECIPE --show 3`.",
        )
    for role in ("bos", "eos", "pad"):
        stated = config.get(f"{role}_token_id")
        wanted = stated if isinstance(stated, list) else [stated]
        token = by_role.get(role)
        if token is not None and stated is not None and token.id not in wanted:
            yield Hazard(
                "warning",
                f"{role}_ids_differ",
                f"The configuration says {role} is token {stated}, the tokenizer says {token.id} "
                f"({token.text}).",
                "What Tunesmith saves carries the tokens that it trained; of other results, check "
                "where they stop.",
            )
    if facts.reserved:
        yield Hazard(
            "note",
            "unused_special_tokens",
            f"{facts.reserved} tokens are reserved and mean nothing yet.",
            "They can be given a meaning without a larger vocabulary; their rows are untrained.",
        )


def _of_template(tokenizer: Any, facts: TokenizerFacts, kind: str) -> Iterator[Hazard]:
    if kind != DECODER:
        return
    if not facts.chat_template:
        yield Hazard(
            "warning",
            "no_chat_template",
            "It has no chat template: it is a base model, or its template was left behind.",
            "The task instruct takes a plain template then, or the one in `task.template`; it is "
            "saved with the result.",
        )
        return
    start = next((token for token in facts.special if token.role == "bos"), None)
    template = str(tokenizer.chat_template)
    names_start = start is not None and (start.text in template or "bos_token" in template)
    if start is not None and names_start and facts.adds.startswith(start.text):
        yield Hazard(
            "note",
            "doubled_start",
            f"Both the chat template and the tokenizer write {start.text}: a rendered chat that is "
            "tokenised again begins with two.",
            "Tokenise rendered chats with add_special_tokens=False, as Tunesmith does.",
        )


def _of_sizes(facts: TokenizerFacts, context: int | None) -> Iterator[Hazard]:
    if facts.spare_rows is not None and facts.spare_rows < 0:
        yield Hazard(
            "broken",
            "more_tokens_than_rows",
            f"It has {-facts.spare_rows} tokens more than the model has embeddings.",
            "Tokenizer and weights do not belong together: fetch or save them again.",
        )
    elif facts.spare_rows:
        yield Hazard(
            "note",
            "spare_rows",
            f"The embedding has {facts.spare_rows} rows that no token uses.",
            "New tokens take them first; then the vocabulary need not grow.",
        )
    if facts.longest and context and facts.longest > context:
        yield Hazard(
            "warning",
            "longer_than_context",
            f"It allows texts of {facts.longest} tokens, the model has {context} positions.",
            "Tunesmith cuts to the model's context and names what it cut; elsewhere set the length "
            "by hand.",
        )


def _reaches_every_byte(core: Mapping[str, Any]) -> bool:
    text = json.dumps([core.get("pre_tokenizer"), core.get("decoder")])
    return "ByteLevel" in text or bool(core.get("model", {}).get("byte_fallback"))


def _around(tokenizer: Any) -> str:
    """What stands before and behind a text: the special ones among the tokens of a letter."""
    try:
        found = tokenizer("a", return_special_tokens_mask=True)
    except (NotImplementedError, ValueError):
        return ""
    words = tokenizer.convert_ids_to_tokens(found["input_ids"])
    marked = list(zip(words, found["special_tokens_mask"], strict=True))
    if not any(special for _, special in marked):
        return ""
    return " ".join(word if special else "…" for word, special in marked)
