"""Renders a chat template: exactly as `apply_chat_template` does, on one day for ever.

    messages ──Renderer.render──> text

It knows no token beyond the texts of the tokenizer's control tokens, and nothing of what a template
does: what contents and arguments are to look like is told to it (`in_parts`, `text_arguments`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from tunesmith.data.records import Message
from tunesmith.errors import ModelError

Tools = Sequence[Mapping[str, Any]] | None
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


class Renderer:
    """A template with a tokenizer's special tokens.

    Args:
        tokenizer: of transformers.
        template: the template's source; None for the tokenizer's own, or `PLAIN_TEMPLATE` where
            it has none.
        variables: further variables of the template, such as `enable_thinking`.
        today: what a template that writes the date is told, as long as this object lives; by
            default the day on which it was made.

    Attributes:
        name: `the model's own`, `plain` (the default), or `given`.
        source: the template's source.
        control: what matches the texts of control tokens.
        in_parts: contents are written as lists of parts.
        text_arguments: arguments of calls are passed as JSON text rather than as objects.
        asks_the_date: whether the template may write the date.

    Raises:
        ModelError: there is no template, and no end-of-text token for the default.
    """

    in_parts = False
    text_arguments = False

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
        self._given = self.source  # whatever the tokenizer is given later
        self.asks_the_date = _ASKS_THE_TIME in self.source
        if self.asks_the_date:
            self._given = _FIXED_DATE + self.source
            self.tell_date(self.today)
        self.control = control_tokens(tokenizer, self.source)

    def tell_date(self, day: date) -> None:
        """Let the template write this day from now on."""
        self._variables["tunesmith_date"] = _directives(day)

    def render(
        self,
        messages: Sequence[Message],
        tools: Tools = None,
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
        if self.in_parts:
            plain["content"] = [{"type": "text", "text": message.content}]
        if message.tool_calls and self.text_arguments:
            plain["tool_calls"] = [_with_text_arguments(call) for call in message.tool_calls]
        return plain


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
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


_ASKS_THE_TIME = "strftime_now"
_LETTERS = "aAbBcdeFHIjmMpSTuUwWxXyYZzf"
