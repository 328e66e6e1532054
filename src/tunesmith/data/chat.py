"""Encodes conversations: what the model reads, which tokens it learns, where its answers stop.

    messages ──ChatEncoder.encode──> EncodedStream     weight 1 on every answer and the end of it
    messages ──ChatEncoder.prompt_ids──> ids           what serving sends to get the next answer

An encoded conversation is *the prompt that serving would send, followed by the last answer*, so
training and use cannot differ. It ends with the last answer's end: what a template writes after
that is read by nobody. Earlier answers are learnt too, as they stand in that prompt. Spans are
found in the rendered text, by rendering its beginnings; never by a tokenizer's own mask.

Text that looks like a control token stays plain text (`lookalikes`). What templates do is known
from `template`. Nothing here knows records, files or models.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from tunesmith.data.batch import Cut, EncodedStream
from tunesmith.data.lookalikes import ChatTokens, Neutral, Tokens, neutralise
from tunesmith.data.records import Message
from tunesmith.data.rendering import THOUGHT_MARKS, Renderer, Tools
from tunesmith.data.template import ChatTemplate, TemplateFacts
from tunesmith.data.turnspans import Layout, TurnSpans


@dataclass(frozen=True)
class _Encoding:
    """Ids of a conversation, which are learnt, and where the last question's text and the first
    answer begin."""

    ids: list[int]
    weights: list[float]
    question: int
    answer: int

    @property
    def trained(self) -> int:
        return sum(1 for weight in self.weights[1:] if weight)


class ChatEncoder:
    """Encodes conversations with one template.

    Args:
        tokenizer: of transformers, a fast one.
        template: the template's source; None for the tokenizer's own or, where it has none,
            the default `plain` (see `rendering.PLAIN_TEMPLATE`).
        variables: further variables of the template, such as `{"enable_thinking": False}`.
        today: the date that a template which writes it is told; by default today's.
        last_only: learn the last answer alone; those before it are only read.

    Attributes:
        template: the source in use: what must be saved with the model and serve it.
        facts: what the template does.
        today: the date that it is told.
        stop_ids: tokens that end an answer.

    Raises:
        ModelError: the template or the tokenizer cannot be learnt with.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        today: date | None = None,
        *,
        last_only: bool = False,
    ) -> None:
        self._last_only = last_only
        self._variables = variables
        self._template = ChatTemplate(tokenizer, template, variables, today)
        self._tokens = ChatTokens(tokenizer, self._template.control)
        self._spans = TurnSpans(self._template)
        self._spoken = _spoken_tokens(tokenizer, self.facts)
        ends = tokenizer.convert_tokens_to_ids(list(self.facts.ends))
        self._end_ids = frozenset(ends)
        eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([*ends, *eos]))

    @property
    def template(self) -> str:
        return self._template.source

    @property
    def today(self) -> date:
        return self._template.today

    @property
    def facts(self) -> TemplateFacts:
        return self._template.facts

    def encode(self, messages: Sequence[Message], tools: Tools = None) -> EncodedStream:
        """Encode a conversation up to the end of its last answer.

        Returns:
            ids, with weight 1.0 on each answer that is learnt and the token that ends it, and 0.0
            elsewhere. A call of a tool is an answer, what the tool says is none.

        Raises:
            DataError: the template does not accept the conversation, or leaves part of it out.
        """
        encoding = self._encode(messages, tools)
        return EncodedStream(tuple(encoding.ids), tuple(encoding.weights))

    def encode_within(
        self, messages: Sequence[Message], tools: Tools, max_length: int
    ) -> tuple[EncodedStream, Cut | None]:
        """Encode a conversation in at most `max_length` tokens; say what was cut.

        Cut on the left: the oldest exchanges go first, whole, the system message stays; then the
        beginning of the last question. An answer is cut (on its right) only where it does not fit
        even without the question.

        Raises:
            DataError: as `encode`.
        """
        whole = self._encode(messages, tools)
        if len(whole.ids) <= max_length:
            return EncodedStream(tuple(whole.ids), tuple(whole.weights)), None
        kept = whole
        shorter = _without_oldest(messages[: _last_answer(messages) + 1])
        if shorter:
            fitting = bisect_left(
                shorter, True, key=lambda m: len(self._encode(m, tools).ids) <= max_length
            )
            kept = self._encode(shorter[min(fitting, len(shorter) - 1)], tools)
        drop = min(max(len(kept.ids) - max_length, 0), max(kept.answer - kept.question, 0))
        left = slice(kept.question, kept.question + drop)
        ids, weights = list(kept.ids), list(kept.weights)
        del ids[left], weights[left]
        sides = [*(["left"] if len(ids) < len(whole.ids) else [])]
        sides += ["right"] if len(ids) > max_length else []
        ids, weights = ids[:max_length], weights[:max_length]
        stream = EncodedStream(tuple(ids), tuple(weights))
        cut = Cut(" and ".join(sides), len(whole.ids) - len(ids), whole.trained - stream.trained())
        return stream, cut

    def prompt_ids(
        self, messages: Sequence[Message], tools: Tools = None, max_length: int | None = None
    ) -> list[int]:
        """Return the prompt that gets the next answer: the same that a trained answer follows.

        Args:
            max_length: cut so as to fit, as `encode_within` does.

        Raises:
            DataError: the template does not accept the conversation.
        """
        ids, question = self._prompt(messages, tools)
        if max_length is None or len(ids) <= max_length:
            return ids
        for shorter in _without_oldest(messages):
            ids, question = self._prompt(shorter, tools)
            if len(ids) <= max_length:
                return ids
        drop = max(len(ids) - max_length, 0)
        return ids[:question] + ids[question + drop :]

    def served_ids(
        self, tokenizer: Any, messages: Sequence[Message], tools: Tools = None
    ) -> list[int]:
        """Return a prompt as servers make it that know a saved tokenizer and nothing else.

        Args:
            tokenizer: the saved one, which holds its chat template.

        Raises:
            TemplateRefusalError: the template does not accept the conversation.
        """
        server = Renderer(tokenizer, None, self._variables, self.today)
        server.in_parts, server.text_arguments = self.facts.in_parts, self.facts.text_arguments
        text = server.render(messages, tools, prompt=True)
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def lookalikes(self, messages: Sequence[Message], tools: Tools = None) -> frozenset[str]:
        """Return the texts of control tokens that are said, and are encoded as plain text."""
        return frozenset(self._neutral(messages, tools).marks.values())

    def render(
        self, messages: Sequence[Message], tools: Tools = None, *, prompt: bool = False
    ) -> str:
        """Return the text of a conversation as the template writes it, to be looked at.

        Args:
            prompt: add the opening of the next answer.

        Raises:
            DataError: the template does not accept the conversation.
        """
        neutral = self._neutral(messages, tools)
        return neutral.restore(self._spans.render(neutral.messages, neutral.tools, prompt=prompt))

    def _neutral(self, messages: Sequence[Message], tools: Tools) -> Neutral:
        return neutralise(messages, tools, self._template.control, self._spoken)

    def _prompt(self, messages: Sequence[Message], tools: Tools) -> tuple[list[int], int]:
        neutral = self._neutral(messages, tools)
        text = self._spans.render(neutral.messages, neutral.tools, prompt=True)
        tokens = self._tokens.encode(text, neutral.marks)
        return tokens.ids, _question(text, tokens.starts, neutral.messages)

    def _encode(self, messages: Sequence[Message], tools: Tools) -> _Encoding:
        neutral = self._neutral(messages, tools)
        layout = self._spans.lay_out(neutral.messages, neutral.tools)
        tokens = self._tokenise(layout, neutral.marks)
        starts = tokens.starts
        weights = [0.0] * len(starts)
        for start, end in layout.spans[-1:] if self._last_only else layout.spans:
            first, last = bisect_left(starts, start), bisect_left(starts, end)
            weights[first:last] = [1.0] * (last - first)
        prompt = layout.text[: layout.spans[-1][0]]
        answer = bisect_left(starts, layout.spans[0][0])
        return _Encoding(tokens.ids, weights, _question(prompt, starts, neutral.messages), answer)

    def _tokenise(self, layout: Layout, marks: Mapping[str, str]) -> Tokens:
        """Encode a conversation so that its prompt's ids are those of the prompt alone.

        Encoded as one text the prompt's last token may take in the answer's first characters (or
        be chosen for their sake); then the two are encoded apart, as it happens in use.
        """
        length = layout.spans[-1][0]
        prompt, answer = layout.text[:length], layout.text[length:]
        tokens = self._tokens.encode(layout.text, marks)
        if self._tokens.ends_cleanly(tokens, prompt, marks):
            return tokens
        head = self._tokens.encode(prompt, marks)
        rest = self._tokens.encode(answer, marks, continues=bool(prompt))
        return Tokens(head.ids + rest.ids, head.starts + [length + start for start in rest.starts])


def _spoken_tokens(tokenizer: Any, facts: TemplateFacts) -> frozenset[str]:
    """Return the control tokens that the assistant may write: its own marks, but no end."""
    own = {token.content for token in tokenizer.added_tokens_decoder.values() if not token.special}
    return frozenset({*own, *THOUGHT_MARKS} - {*facts.ends, facts.history_end})


def _last_answer(messages: Sequence[Message]) -> int:
    return max(i for i, message in enumerate(messages) if message.role == "assistant")


def _without_oldest(messages: Sequence[Message]) -> list[list[Message]]:
    """Return the conversation without its first exchange, its first two, ...; system stays."""
    questions = [i for i, message in enumerate(messages) if message.role == "user"]
    system = [message for message in messages[: questions[0]] if message.role == "system"]
    return [[*system, *messages[i:]] for i in questions[1:]]


def _question(text: str, starts: Sequence[int], messages: Sequence[Message]) -> int:
    """Return the token at which the text of the last question begins (0 if it is not found)."""
    said = next((m.content.strip() for m in reversed(messages) if m.role == "user"), "")
    return bisect_left(starts, max(text.rfind(said), 0)) if said else 0
