"""Lays a conversation out as text, and finds where the assistant's answers stand in it.

    messages ──TurnSpans.lay_out──> Layout(text, spans)

    text    the prompt of the last answer, as serving would render it, then that answer
    spans   [start, end) of each answer in it, the control token that ends it included

The messages come with look-alikes of control tokens already replaced, so that a control token in
the text is the template's own. What cannot be placed for certain is a `DataError`, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from tunesmith.data.records import Message
from tunesmith.data.rendering import (
    CLOSES_THOUGHT,
    OPENS_THOUGHT,
    TemplateRefusalError,
    Tools,
)
from tunesmith.data.template import ChatTemplate
from tunesmith.errors import DataError

_OTHER = "Qvexa"


@dataclass(frozen=True)
class Layout:
    """Rendered text, and the `[start, end)` of each answer in it, in order; at least one."""

    text: str
    spans: list[tuple[int, int]]


class TurnSpans:
    """Finds answers in what one template writes."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._facts = template.facts

    def render(self, messages: Sequence[Message], tools: Tools, *, prompt: bool = False) -> str:
        """Render, once it is known that the template leaves nothing out.

        Raises:
            DataError: the template does not accept these messages, or has no place for some.
        """
        self._require_places(messages, tools)
        return self._render(messages, tools, prompt)

    def lay_out(self, messages: Sequence[Message], tools: Tools) -> Layout:
        """Return the text of a conversation up to its last answer, and the place of each answer.

        Raises:
            DataError: there is no answer, the template does not accept the messages or leaves part
                of an answer out.
        """
        turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
        if not turns:
            raise DataError("The conversation has no turn of the assistant: nothing to learn.")
        last = turns[-1]
        self._require_places(messages[: last + 1], tools)
        prompt, answer = self._last_turn(messages[: last + 1], tools)
        text = prompt + answer
        starts: list[int] = []
        for i in turns[:-1]:
            starts.append(self._start(text, messages[:i], tools, starts[-1] if starts else 0))
        limits = [*starts[1:], len(prompt)]
        spans = [
            (start, self._end(text, start, limit))
            for start, limit in zip(starts, limits, strict=True)
        ] if starts else []  # fmt: skip
        for i, (start, end) in zip(turns, spans, strict=False):
            self._require_content(messages[i], text[start:end], i, in_history=True)
        self._require_content(messages[last], answer, last, in_history=False)
        return Layout(text, [*spans, (len(prompt), len(text))])

    def _render(self, messages: Sequence[Message], tools: Tools, prompt: bool) -> str:
        try:
            return self._template.render(messages, tools, prompt=prompt)
        except TemplateRefusalError as error:
            raise DataError(
                f"The model's chat template does not accept this conversation: {error}.",
                fix="Change the conversation, or give another template.",
            ) from error

    def _last_turn(self, messages: Sequence[Message], tools: Tools) -> tuple[str, str]:
        """Return the prompt of the last answer, and the answer with the token that ends it."""
        whole = self._closed(self._render(messages, tools, False), messages[-1])
        if len(messages) == 1:
            start = self._find_header(whole, 0)
            return whole[:start], whole[start:]
        prompt = self._render(messages[:-1], tools, True)
        if whole.startswith(prompt):
            return prompt, whole[len(prompt) :]
        return prompt, self._answer_apart(whole, prompt, messages, tools)

    def _closed(self, whole: str, message: Message) -> str:
        """Cut a rendering after the token that ends its last answer, or add that token."""
        facts = self._facts
        if facts.implied_end:
            return whole + (facts.ends[-1] if message.tool_calls else facts.ends[0])
        end = max(whole.rfind(token) + len(token) for token in facts.ends if token in whole + token)
        if not any(token in whole for token in facts.ends):
            raise DataError(
                "The chat template ends this answer with no token on which generation stops "
                f"(it knows {' and '.join(facts.ends)}).",
                fix="Leave the record out, or give another template.",
            )
        return whole[:end]

    def _answer_apart(
        self, whole: str, prompt: str, messages: Sequence[Message], tools: Tools
    ) -> str:
        """Return the last answer where the template, once it is there, writes the rest otherwise.

        Such templates drop thoughts from finished conversations, or the opening of thoughts that
        their prompt ends with. The answer is what follows the last opening of a turn.
        """
        before = self._render(messages[:-1], tools, False)
        header = prompt[len(_shared(before, prompt)) :]
        thinks = header.rstrip().endswith(OPENS_THOUGHT)
        if thinks:
            header = header.rstrip().removesuffix(OPENS_THOUGHT)
        other = [*messages[:-1], Message(role="assistant", content=_OTHER)]
        shared = _shared(whole, self._render(other, tools, False))
        place = shared.rfind(header) if header else -1
        if place < 0:
            raise DataError(
                "The chat template writes this answer so that it does not follow the prompt that "
                "it would be given"
                f"{' (its reasoning)' if messages[-1].reasoning_content else ''}.",
                fix="Leave the reasoning out, or set the template's variables (enable_thinking).",
            )
        answer = whole[place + len(header) :]
        return _with_thought(answer, messages[-1]) if thinks else answer

    def _start(self, text: str, before: Sequence[Message], tools: Tools, after: int) -> int:
        """Return where an earlier answer begins, that follows `before`."""
        if before:
            prompt = self._render(before, tools, True)
            if text.startswith(prompt):
                return len(prompt)
        return self._find_header(text, after)

    def _find_header(self, text: str, after: int) -> int:
        header = self._facts.history_header
        place = text.find(header, after) if header.strip() else -1
        if place < 0:
            raise DataError(
                "The chat template writes this conversation so that an answer cannot be told from "
                "what stands before it.",
                fix="Begin the conversation with a question, or give another template.",
            )
        return place + len(header)

    def _end(self, text: str, start: int, limit: int) -> int:
        """Return where an earlier answer ends: after the token that ends it, if that is learnt."""
        ends = [
            place + len(token)
            for token in self._facts.ends
            if 0 <= (place := text.find(token, start)) <= limit
        ]
        if ends:
            return min(ends)
        closed = text.find(self._facts.history_end, start, limit) if self._facts.history_end else -1
        if closed < 0:
            raise DataError(
                "The chat template does not end an earlier answer of this conversation with "
                f"{' or '.join(self._facts.ends)}.",
                fix="Leave the record out, or give another template.",
            )
        return closed

    def _require_places(self, messages: Sequence[Message], tools: Tools) -> None:
        facts = self._facts
        if not facts.system and any(message.role == "system" for message in messages):
            raise DataError(
                "The model's chat template has no place for system messages.",
                fix="Put that text at the head of the first question, or give another template.",
            )
        calls = any(message.tool_calls for message in messages)
        if (tools and not facts.tools) or (calls and not facts.calls):
            raise DataError(
                "The model's chat template has no place for tools.",
                fix="Use a model whose template writes them, or records without tools.",
            )

    def _require_content(self, message: Message, written: str, turn: int, in_history: bool) -> None:
        """Raise unless what the assistant says is in what was written of it."""
        thought, _, said = message.content.rpartition(CLOSES_THOUGHT)
        thought = message.reasoning_content or thought.rpartition(OPENS_THOUGHT)[2]
        if said.strip() not in written:
            lost = said
        elif not in_history and thought.strip() not in written:
            lost = thought
        else:
            return
        raise DataError(
            f"The chat template leaves out or changes part of messages[{turn}]: "
            f"{lost.strip()[:60]!r}.",
            fix="Leave the record out, or give another template.",
        )


def _with_thought(answer: str, message: Message) -> str:
    """Continue thoughts that the prompt has opened: the thought, the close of it, the answer."""
    if answer.startswith(OPENS_THOUGHT):
        return answer.removeprefix(OPENS_THOUGHT)
    thought = message.content.rpartition(CLOSES_THOUGHT)[0].rpartition(OPENS_THOUGHT)[2]
    thought = (message.reasoning_content or thought).strip()
    return f"{thought}\n{CLOSES_THOUGHT}\n\n{answer.lstrip()}"


def _shared(one: str, other: str) -> str:
    """Return the longest text that both begin with."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return one[: sum(1 for _ in pairs)]
