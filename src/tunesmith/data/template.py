"""Renders a chat template, and finds out by probing what it does.

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
from datetime import date, datetime
from typing import Any

from tunesmith.data.records import Message
from tunesmith.errors import ModelError

OPENS_THOUGHT, CLOSES_THOUGHT = "<think>", "</think>"
THOUGHT_MARKS = (OPENS_THOUGHT, CLOSES_THOUGHT)
"""What the assistant may write as control tokens of its own: templates look for these."""

PLAIN_TEMPLATE = """\
{%- for message in messages -%}
{{- message['role'] | capitalize + ':\\n' + message['content'] + eos_token + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:\\n' -}}{%- endif -%}"""
"""For models without a template, under the name `plain`: needs no token but the end of text.

    User:\\nHi<eos>\\nAssistant:\\nHello.<eos>\\n

Roles are plain words, yet cannot be forged: a turn begins only after an end-of-text token, which
a user's text never becomes.
"""


_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{%- set made = namespace(text=format) -%}"
    "{%- for code, text in tunesmith_date.items() -%}"
    "{%- set made.text = made.text.replace(code, text) -%}{%- endfor -%}"
    "{{- made.text -}}{%- endmacro %}\n"
)
"""Put before a template that asks for the time: it is answered by one date, midnight, for ever."""


class TemplateRefusalError(Exception):
    """The template raised an error on a conversation; the text says why."""


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


class ChatTemplate:
    """A template with a tokenizer's special tokens, and the facts about it.

    Args:
        tokenizer: of transformers.
        template: the template's source; None for the tokenizer's own, or `PLAIN_TEMPLATE` where
            it has none.
        variables: further variables of the template, such as `enable_thinking`.
        today: what a template that writes the date is told, as long as this object lives; by
            default the day on which it was made.

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
        self._tokenizer = tokenizer
        self._variables = dict(variables or {})
        self.today = today or datetime.now().astimezone().date()
        self.name = "given" if template else "the model's own"
        if template is None and not tokenizer.chat_template:
            self.name, template = "plain", _plain_template(tokenizer)
        self.source = template or tokenizer.get_chat_template()
        self._given = template
        if _ASKS_THE_TIME in self.source:
            self._given = _FIXED_DATE + self.source
            self._variables["tunesmith_date"] = _directives(self.today)
        self.control = control_tokens(tokenizer, self.source)
        self._in_parts = self._text_arguments = False
        self.facts = self._study()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        prompt: bool = False,
    ) -> str:
        """Return the text of a conversation.

        Args:
            prompt: add the opening of an answer, as for generation.

        Raises:
            TemplateRefusalError: the template does not accept it.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                [self._plain(message) for message in messages],
                tools=list(tools) if tools else None,
                chat_template=self._given,
                add_generation_prompt=prompt,
                tokenize=False,
                **self._variables,
            )
        except Exception as error:  # a template is a program: it may fail in any way
            raise TemplateRefusalError(str(error) or type(error).__name__) from error
        return str(text)

    def _plain(self, message: Message) -> dict[str, Any]:
        """Return a message as templates expect it: fields without a value are absent."""
        plain = {name: value for name, value in message if value is not None}
        if self._in_parts:
            plain["content"] = [{"type": "text", "text": message.content}]
        if message.tool_calls and self._text_arguments:
            plain["tool_calls"] = [_with_text_arguments(call) for call in message.tool_calls]
        return plain

    # What follows finds the facts.

    def _study(self) -> TemplateFacts:
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
            name=self.name,
            ends=tuple(ends),
            history_end=None if set(run) & set(ends) or not run else run[0],
            implied_end=implied,
            history_header=self._history_header(two, prompt),
            in_parts=self._in_parts,
            text_arguments=self._text_arguments,
            opens_thought=opens_thought,
            prefix=two.startswith(closed) and not opens_thought,
            drops_reasoning=self._drops_reasoning(),
            trims=f" {_ANSWER} " not in self._must_render([_ONE[0], _say(f" {_ANSWER} ")]),
            system=_shows(self, [Message(role="system", content=_SYSTEM), *_ONE], _SYSTEM),
            tools=_shows(self, _ONE, _TOOL, _TOOLS),
            calls=_shows(self, _CALL, _CITY, _TOOLS),
            dated=self._dated(),
        )

    def _unfit(self, why: str) -> ModelError:
        return ModelError(
            f"The chat template ({self.name}) cannot be learnt with: {why}.",
            fix="Give another template, or a model whose template fits.",
        )

    def _must_render(self, messages: Sequence[Message], prompt: bool = False) -> str:
        try:
            return self.render(messages, prompt=prompt)
        except TemplateRefusalError as error:
            raise self._unfit(f"it fails on a plain conversation ({error})") from error

    def _first_rendering(self) -> str:
        """Render one exchange, with contents as text or, where those do not appear, as parts."""
        for self._in_parts in (False, True):
            try:
                text = self.render(_ONE)
            except TemplateRefusalError:
                continue
            if _QUESTION in text and text.count(_ANSWER) == 1:
                return text
        self._in_parts = False
        text = self._must_render(_ONE)
        raise self._unfit(f"it does not write each message once ({text[-80:]!r})")

    def _run(self, text: str) -> list[str]:
        """Return the first control token of `text` and those that follow it without a gap."""
        run = re.search(rf"(?:{self.control.pattern})+", text) if self.control.pattern else None
        return self.control.findall(run.group()) if run else []

    def _end(self, one: str) -> tuple[str, bool]:
        """Return the control token that ends an answer, and whether the next turn opens with it."""
        run = self._run(one[one.index(_ANSWER) + len(_ANSWER) :])
        if run:
            return run[-1], False
        more = self._must_render([*_ONE, _TWO[2]])
        opening = re.match(rf"\s*({self.control.pattern})", more[len(one) :])
        if not more.startswith(one) or not self.control.pattern or opening is None:
            raise self._unfit("it closes answers with no special token, so that none could stop")
        return opening.group(1), True

    def _history_header(self, two: str, prompt: str) -> str:
        """Return what the template writes between a question and an earlier answer to it."""
        before = self._must_render(_ONE[:1])
        if two.startswith(before):
            return two[len(before) : two.index(_ANSWER)]
        opening = two[two.index(_QUESTION) + len(_QUESTION) : two.index(_ANSWER)]
        tokens = list(self.control.finditer(opening)) if self.control.pattern else []
        if not two.startswith(prompt) or not tokens:
            raise self._unfit("what it writes for a question changes once it is answered")
        return opening[tokens[-1].start() :]

    def _call_ends(self, end: str, implied: bool) -> list[str]:
        """Return what closes an answer that calls a tool; finds out how arguments are passed."""
        for self._text_arguments in (False, True):
            text = _try(self, _CALL, _TOOLS)
            if text and _CITY in text and "{'" not in text:
                break
        else:
            self._text_arguments = False
            return []
        if not implied:
            return (self._run(text[text.rindex(_CITY) :]) or [end])[-1:]
        more = _try(self, [*_CALL, Message(role="tool", content=_ANSWER)], _TOOLS) or ""
        opening = re.match(rf"\s*({self.control.pattern})", more[len(text) :])
        return [opening.group(1)] if opening and more.startswith(text) else []

    def _dated(self) -> bool:
        """Whether the same conversation is written otherwise on another day."""
        if "tunesmith_date" not in self._variables:
            return False
        shown = [_try(self, _ONE), _try(self, _CALL, _TOOLS)]
        told = self._variables["tunesmith_date"]
        self._variables["tunesmith_date"] = _directives(_ANOTHER_DAY)
        other = [_try(self, _ONE), _try(self, _CALL, _TOOLS)]
        self._variables["tunesmith_date"] = told
        return shown != other

    def _drops_reasoning(self) -> bool:
        thinking = Message(role="assistant", content=_ANSWER, reasoning_content=_THOUGHT)
        shown = _THOUGHT in (_try(self, [_ONE[0], thinking]) or "")
        kept = _THOUGHT in (_try(self, [_ONE[0], thinking, *_TWO[2:]]) or "")
        return shown and not kept


def control_tokens(tokenizer: Any, template: str) -> re.Pattern[str]:
    """Return what matches the texts of control tokens, the longest first.

    They are the special tokens, and those added tokens that the template itself writes; not the
    added tokens that are ordinary text (runs of spaces).
    """
    texts = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.content.strip() and (token.special or token.content in template)
    ]
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))))


def _directives(day: date) -> dict[str, str]:
    """Return what each code of `strftime` stands for on `day`, the longer codes first."""
    moment = datetime(day.year, day.month, day.day)
    codes = [f"%-{letter}" for letter in "dmHIMSyj"] + [f"%{letter}" for letter in _LETTERS]
    return {code: _plainly(moment, code) for code in codes} | {"%%": "%"}


def _plainly(moment: datetime, code: str) -> str:
    """As `strftime`, with `%-d` (no leading zero) on every system."""
    if code.startswith("%-"):
        return moment.strftime(f"%{code[2:]}").lstrip("0") or "0"
    return moment.strftime(code)


def _plain_template(tokenizer: Any) -> str:
    if not tokenizer.eos_token:
        raise ModelError(
            "The tokenizer has neither a chat template nor an end-of-text token.",
            fix="Give a template, or learn from plain texts (task: language_modeling).",
        )
    ids = tokenizer("a")["input_ids"]
    begins = bool(ids) and ids[0] == tokenizer.bos_token_id
    return ("{{- bos_token -}}\n" if begins else "") + PLAIN_TEMPLATE


def _with_text_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    import json

    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _after(text: str, end: str) -> str:
    """Return what stands between the probe's answer and the close of it, that included."""
    rest = text[text.rindex(_ANSWER) + len(_ANSWER) :]
    return rest[: rest.index(end) + len(end)] if end in rest else rest


def _try(
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str | None:
    try:
        return template.render(messages, tools)
    except TemplateRefusalError:
        return None


def _shows(
    template: ChatTemplate,
    messages: Sequence[Message],
    text: str,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> bool:
    return text in (_try(template, messages, tools) or "")


def _say(text: str) -> Message:
    return Message(role="assistant", content=text)


_ASKS_THE_TIME = "strftime_now"
_LETTERS = "aAbBcdeFHIjmMpSTuUwWxXyYZzf"
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
