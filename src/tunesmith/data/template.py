"""Chat templates: what one writes, and what it does, found out by probing.

    messages ──ChatTemplate.render──> text           exactly as `apply_chat_template` does
    probe conversations ──study──> TemplateFacts     where answers begin and end, what is dropped

Templates are programs: what they do is never read from their source or their name, it is seen in
what they write. A template whose answers cannot be told from the rest is a `ModelError`. Tokens
are not known here, beyond the texts of the tokenizer's control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from tunesmith.data.records import Message
from tunesmith.data.rendering import OPENS_THOUGHT, Renderer, TemplateRefusalError, Tools
from tunesmith.errors import ModelError


@dataclass(frozen=True)
class TemplateFacts:
    """What a template does, as seen in what it writes.

    Attributes:
        name: `the model's own`, `plain` (the default), or `given`.
        ends: texts of control tokens that close an answer; generation stops there.
        history_end: what closes an earlier answer, where that is not one of `ends`.
        implied_end: answers are closed by the opening of the next turn (its text is in `ends`).
        history_header: what opens an earlier answer.
        in_parts: contents are written as lists of parts.
        text_arguments: arguments of calls are passed as JSON text rather than as objects.
        opens_thought: the prompt opens the assistant's thoughts, and the template leaves the
            thoughts out of what it writes: they are put back in what is learnt.
        prefix: a conversation's encoding is a prefix of that of its continuation.
        drops_reasoning: thoughts of earlier turns are left out.
        trims: white space around an answer is removed.
        system, tools, calls: whether system messages, the tools on offer, and calls are written.
        dated: the date is written.
    """

    name: str
    ends: tuple[str, ...]
    history_end: str | None
    implied_end: bool
    history_header: str
    in_parts: bool
    text_arguments: bool
    opens_thought: bool
    prefix: bool
    drops_reasoning: bool
    trims: bool
    system: bool
    tools: bool
    calls: bool
    dated: bool

    def sentences(self) -> list[str]:
        """Return what a user should know of it, a sentence each."""
        said = [f"Chat template: {self.name}; answers end with {' or '.join(self.ends)}."]
        if not self.prefix or self.drops_reasoning:
            said.append(
                "It writes earlier answers otherwise than the last one"
                f"{' (their reasoning is left out)' if self.drops_reasoning else ''}: a "
                "conversation is not a prefix of its continuation, and earlier answers are learnt "
                "as they stand in the history."
            )
        if self.history_end:
            said.append(
                f"It closes earlier answers with {self.history_end}, on which nothing stops; that "
                "token is not learnt."
            )
        if self.trims:
            said.append("It removes white space around answers.")
        if not self.system:
            said.append("It has no place for system messages.")
        if self.dated:
            said.append(
                "It writes the date: a run keeps that of the day on which it began, also when it is"
                " resumed, measured again or used."
            )
        return said


class ChatTemplate(Renderer):
    """A template with a tokenizer's special tokens, and the facts about it.

    Args:
        tokenizer, template, variables, today: as of `Renderer`.

    Raises:
        ModelError: the template cannot be learnt with.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        variables: Mapping[str, Any] | None = None,
        today: date | None = None,
    ) -> None:
        super().__init__(tokenizer, template, variables, today)
        self.facts = _Study(self).found()


class _Study:
    """Finds the facts about a template in what it writes of made-up conversations."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer, self._control = renderer, renderer.control

    def found(self) -> TemplateFacts:
        """Return the facts; the renderer then writes contents and arguments as it should."""
        one = self._first_rendering()
        prompt = self._must_render(_ONE[:1], prompt=True)
        opens_thought = not one.startswith(prompt)
        if opens_thought and not one.startswith(prompt.rstrip().removesuffix(OPENS_THOUGHT)):
            raise self._unfit(
                "what it writes for an answer does not begin with what it writes as the prompt"
            )
        end, implied = self._end(one)
        two = self._must_render(_TWO)
        run = self._run(two[two.index(_ANSWER) + len(_ANSWER) :])
        ends = dict.fromkeys([end, *self._call_ends(end, implied)])
        closed = one[: one.rindex(_ANSWER) + len(_ANSWER)] + _after(one, end)
        return TemplateFacts(
            name=self._renderer.name,
            ends=tuple(ends),
            history_end=None if set(run) & set(ends) or not run else run[0],
            implied_end=implied,
            history_header=self._history_header(two, prompt),
            in_parts=self._renderer.in_parts,
            text_arguments=self._renderer.text_arguments,
            opens_thought=opens_thought,
            prefix=two.startswith(closed) and not opens_thought,
            drops_reasoning=self._drops_reasoning(),
            trims=f" {_ANSWER} " not in self._must_render([_ONE[0], _say(f" {_ANSWER} ")]),
            system=self._shows([Message(role="system", content=_SYSTEM), *_ONE], _SYSTEM),
            tools=self._shows(_ONE, _TOOL, _TOOLS),
            calls=self._shows(_CALL, _CITY, _TOOLS),
            dated=self._dated(),
        )

    def _unfit(self, why: str) -> ModelError:
        return ModelError(
            f"The chat template ({self._renderer.name}) cannot be learnt with: {why}.",
            fix="Give another template, or a model whose template fits.",
        )

    def _must_render(self, messages: Sequence[Message], prompt: bool = False) -> str:
        try:
            return self._renderer.render(messages, prompt=prompt)
        except TemplateRefusalError as error:
            raise self._unfit(f"it fails on a plain conversation ({error})") from error

    def _first_rendering(self) -> str:
        """Render one exchange, with contents as text or, where those do not appear, as parts."""
        for self._renderer.in_parts in (False, True):
            try:
                text = self._renderer.render(_ONE)
            except TemplateRefusalError:
                continue
            if _QUESTION in text and text.count(_ANSWER) == 1:
                return text
        self._renderer.in_parts = False
        text = self._must_render(_ONE)
        raise self._unfit(f"it does not write each message once ({text[-80:]!r})")

    def _run(self, text: str) -> list[str]:
        """Return the first control token of `text` and those that follow it without a gap."""
        pattern = self._control.pattern
        run = re.search(rf"(?:{pattern})+", text) if pattern else None
        return self._control.findall(run.group()) if run else []

    def _end(self, one: str) -> tuple[str, bool]:
        """Return the control token that ends an answer, and whether the next turn opens with it."""
        run = self._run(one[one.index(_ANSWER) + len(_ANSWER) :])
        if run:
            return run[-1], False
        more = self._must_render([*_ONE, _TWO[2]])
        opening = re.match(rf"\s*({self._control.pattern})", more[len(one) :])
        if not more.startswith(one) or not self._control.pattern or opening is None:
            raise self._unfit("it closes answers with no special token, so that none could stop")
        return opening.group(1), True

    def _history_header(self, two: str, prompt: str) -> str:
        """Return what the template writes between a question and an earlier answer to it."""
        before = self._must_render(_ONE[:1])
        if two.startswith(before):
            return two[len(before) : two.index(_ANSWER)]
        opening = two[two.index(_QUESTION) + len(_QUESTION) : two.index(_ANSWER)]
        tokens = list(self._control.finditer(opening)) if self._control.pattern else []
        if not two.startswith(prompt) or not tokens:
            raise self._unfit("what it writes for a question changes once it is answered")
        return opening[tokens[-1].start() :]

    def _call_ends(self, end: str, implied: bool) -> list[str]:
        """Return what closes an answer that calls a tool; finds out how arguments are passed."""
        for self._renderer.text_arguments in (False, True):
            text = self._try(_CALL, _TOOLS)
            if text and _CITY in text and "{'" not in text:
                break
        else:
            self._renderer.text_arguments = False
            return []
        if not implied:
            return (self._run(text[text.rindex(_CITY) :]) or [end])[-1:]
        more = self._try([*_CALL, Message(role="tool", content=_ANSWER)], _TOOLS) or ""
        opening = re.match(rf"\s*({self._control.pattern})", more[len(text) :])
        return [opening.group(1)] if opening and more.startswith(text) else []

    def _dated(self) -> bool:
        """Whether the same conversation is written otherwise on another day."""
        renderer = self._renderer
        if not renderer.asks_the_date:
            return False
        shown = [self._try(_ONE), self._try(_CALL, _TOOLS)]
        renderer.tell_date(_ANOTHER_DAY)
        other = [self._try(_ONE), self._try(_CALL, _TOOLS)]
        renderer.tell_date(renderer.today)
        return shown != other

    def _drops_reasoning(self) -> bool:
        thinking = Message(role="assistant", content=_ANSWER, reasoning_content=_THOUGHT)
        shown = _THOUGHT in (self._try([_ONE[0], thinking]) or "")
        kept = _THOUGHT in (self._try([_ONE[0], thinking, *_TWO[2:]]) or "")
        return shown and not kept

    def _try(self, messages: Sequence[Message], tools: Tools = None) -> str | None:
        try:
            return self._renderer.render(messages, tools)
        except TemplateRefusalError:
            return None

    def _shows(self, messages: Sequence[Message], text: str, tools: Tools = None) -> bool:
        return text in (self._try(messages, tools) or "")


def _after(text: str, end: str) -> str:
    """Return what stands between the probe's answer and the close of it, that included."""
    rest = text[text.rindex(_ANSWER) + len(_ANSWER) :]
    return rest[: rest.index(end) + len(end)] if end in rest else rest


def _say(text: str) -> Message:
    return Message(role="assistant", content=text)


_ANOTHER_DAY = date(1903, 2, 1)
_QUESTION, _ANSWER, _SYSTEM, _THOUGHT = "Qvexa one", "Avexo two", "Svexi three", "Tvexu four"
_CITY, _TOOL = "Cvexy", "dvexa"
_ONE = [Message(role="user", content=_QUESTION), _say(_ANSWER)]
_TWO = [*_ONE, Message(role="user", content="Qvexa five"), _say("Avexo six")]
_CALL = [
    _ONE[0],
    Message(
        role="assistant",
        tool_calls=[
            {
                "type": "function",
                "id": "call00001",
                "function": {"name": _TOOL, "arguments": {"city": _CITY}},
            }
        ],
    ),
]
_TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": _TOOL,
            "description": "Looks a city up.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "its name"}},
                "required": ["city"],
            },
        },
    }
]
