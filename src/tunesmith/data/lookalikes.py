"""Turns chat text into token ids so that what is *said* never becomes a control token.

    messages ──neutralise──> messages with one private character for each look-alike
    rendered text ──ChatTokens──> ids and where each begins; look-alikes as plain text

A look-alike is the text of a control token (`<|im_start|>`) inside what somebody says. While the
template runs, a private character stands in its place, so that the template cannot take it for
its own; then it is encoded as ordinary characters. Text without look-alikes is encoded exactly as
the tokenizer does it. This module knows no template.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tunesmith.data.records import Message
from tunesmith.errors import ModelError

_FIRST_PRIVATE = 0xF0000
_LAST_PRIVATE = 0xFFFFD


@dataclass(frozen=True)
class Neutral:
    """A conversation with look-alikes replaced.

    `marks` maps each private character that stands in it to the text that it stands for.
    """

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    marks: Mapping[str, str]

    def restore(self, text: str) -> str:
        """Return `text` with the look-alikes back in their places."""
        for mark, lookalike in self.marks.items():
            text = text.replace(mark, lookalike)
        return text


def neutralise(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    control: re.Pattern[str],
    spoken: frozenset[str],
) -> Neutral:
    """Replace look-alikes of control tokens in everything that is said.

    Args:
        control: matches the texts of control tokens.
        spoken: control tokens that the assistant may itself write (`<think>`, `<tool_call>`);
            they stay what they are in its turns.
    """
    said = [text for message in messages for text in _texts(message)] + list(_leaves(tools))
    found = (
        {match for text in said for match in control.findall(text)} if control.pattern else set()
    )
    if not found:
        return Neutral(list(messages), None if tools is None else [dict(t) for t in tools], {})
    marks = dict(zip(_unused_characters(said), sorted(found), strict=False))
    mark_of = {lookalike: mark for mark, lookalike in marks.items()}
    replaced: set[str] = set()

    def mark(match: re.Match[str]) -> str:
        replaced.add(match.group())
        return mark_of[match.group()]

    def replace(text: str) -> str:
        return control.sub(mark, text)

    def replace_unspoken(text: str) -> str:
        return control.sub(lambda m: m.group() if m.group() in spoken else mark(m), text)

    neutral = [_map(m, replace_unspoken if m.role == "assistant" else replace) for m in messages]
    offered = None if tools is None else [_map_leaves(dict(tool), replace) for tool in tools]
    return Neutral(neutral, offered, {m: text for m, text in marks.items() if text in replaced})


def _texts(message: Message) -> Iterable[str]:
    yield message.content
    for text in (message.reasoning_content, message.name, message.tool_call_id):
        if text:
            yield text
    if message.tool_calls:
        yield from _leaves(message.tool_calls)


def _leaves(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(key)
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)


def _map_leaves(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _map_leaves(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_leaves(item, change) for item in value]
    return value


def _map(message: Message, change: Callable[[str], str]) -> Message:
    return Message.model_construct(
        role=message.role,
        **{name: _map_leaves(value, change) for name, value in message if name != "role"},
    )


def _unused_characters(texts: Sequence[str]) -> Iterable[str]:
    used = set("".join(texts))
    return (c for c in map(chr, range(_FIRST_PRIVATE, _LAST_PRIVATE)) if c not in used)


@dataclass(frozen=True)
class Tokens:
    """Token ids of a text, and the place in the text where each begins."""

    ids: list[int]
    starts: list[int]


class ChatTokens:
    """Encodes rendered chat text.

    Args:
        tokenizer: of transformers, one that knows where each token stands (a "fast" one).
        control: matches the texts of control tokens.

    Raises:
        ModelError: the tokenizer does not know where its tokens stand.
    """

    def __init__(self, tokenizer: Any, control: re.Pattern[str]) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"The tokenizer ({type(tokenizer).__name__}) does not tell where its tokens stand "
                "in the text, so that answers cannot be told from prompts.",
                fix="Use a model that comes with a tokenizer.json.",
            )
        self._tokenizer = tokenizer
        self._control = control
        self._newline = self._encode("\n").ids
        self._remembered = lru_cache(maxsize=1024)(self._encode)

    def encode(self, text: str, marks: Mapping[str, str], *, continues: bool = False) -> Tokens:
        """Encode `text`; each private character of `marks` becomes the look-alike, as plain text.

        Args:
            continues: the text continues other text: no space is put before it.
        """
        if not any(mark in text for mark in marks):
            return self._continued(text) if continues else self._encode(text)
        ids: list[int] = []
        starts: list[int] = []
        place = 0
        for piece in re.split(f"([{''.join(marks)}])", text):
            if piece in marks:
                plain = self._plainly(marks[piece])
                ids += plain
                starts += [place] * len(plain)
            elif piece:
                inside = continues or place > 0
                tokens = self._continued(piece) if inside else self._encode(piece)
                ids += tokens.ids
                starts += [place + start for start in tokens.starts]
            place += len(piece)
        return Tokens(ids, starts)

    def ends_cleanly(self, tokens: Tokens, head: str, marks: Mapping[str, str]) -> bool:
        """Return whether `tokens` begin with exactly the tokens that `head` alone has.

        Control tokens part a text: only what follows the last one in `head` has to be compared,
        and that is the same few characters in conversation after conversation.
        """
        last = max((m.start() for m in self._control.finditer(head)), default=0)
        tail = head[last:]
        if any(mark in tail for mark in marks):
            alone = self.encode(head, marks)
            last = 0
        else:
            alone = self._remembered(tail)
        first, end = bisect_left(tokens.starts, last), bisect_left(tokens.starts, len(head))
        begins_answer = tokens.starts[end : end + 1] in ([], [len(head)])
        return tokens.ids[first:end] == alone.ids and begins_answer

    def _continued(self, text: str) -> Tokens:
        tokens = self._encode("\n" + text)
        skip = len(self._newline)
        if tokens.ids[:skip] != self._newline:
            return self._encode(text)
        return Tokens(tokens.ids[skip:], [start - 1 for start in tokens.starts[skip:]])

    def _encode(self, text: str) -> Tokens:
        encoded = self._tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return Tokens(encoded["input_ids"], [start for start, _ in encoded["offset_mapping"]])

    def _plainly(self, text: str) -> list[int]:
        """Encode a control token's text as if it were ordinary text."""
        ids = self._without_newline(
            self._tokenizer.encode("\n" + text, add_special_tokens=False, split_special_tokens=True)
        )
        if self._is_plain(ids):
            return ids
        # some control tokens are not marked special: apart, their characters are ordinary
        ids = [i for character in text for i in self._continued(character).ids]
        if self._is_plain(ids):
            return ids
        raise ModelError(f"The tokenizer makes a control token of {text!r} even in plain text.")

    def _without_newline(self, ids: list[int]) -> list[int]:
        skip = len(self._newline)
        return ids[skip:] if ids[:skip] == self._newline else ids

    def _is_plain(self, ids: Sequence[int]) -> bool:
        names = self._tokenizer.convert_ids_to_tokens(list(ids))
        return not any(self._control.fullmatch(name) for name in names)
