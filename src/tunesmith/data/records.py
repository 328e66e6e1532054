"""One raw example, as a task reads it: the few shapes that every record format becomes.

A file may hold Alpaca, chat, ShareGPT, prompt/completion, text, text/label or tagged records
(`data/formats.py` recognises which); each is turned into one of these, and a task names the one
that it learns from. Field descriptions are the documentation of the format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Message(BaseModel):
    """One turn of a conversation, in the OpenAI chat format."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant", "tool"] = Field(description="who speaks")
    content: str = Field(default="", description="what is said")
    reasoning_content: str | None = Field(
        default=None, description="what the assistant thinks before it speaks"
    )
    tool_calls: list[dict[str, Any]] | None = Field(
        default=None, description="calls that the assistant makes, in the OpenAI format"
    )
    tool_call_id: str | None = Field(default=None, description="the call that a tool answers")
    name: str | None = Field(default=None, description="name of the tool that answers")

    @property
    def says_something(self) -> bool:
        """Whether there is anything in this turn to read or to learn."""
        return bool(self.content.strip() or self.reasoning_content or self.tool_calls)


class Conversation(BaseModel):
    """A conversation: the assistant's turns are what is learnt."""

    messages: list[Message] = Field(min_length=1, description="the turns, in order")
    tools: list[dict[str, Any]] | None = Field(
        default=None, description="tools on offer, as JSON schemas"
    )

    @property
    def prompt(self) -> list[Message]:
        """The turns before the last one of the assistant."""
        return self.messages[: self._last_answer()]

    @property
    def answer(self) -> str:
        """The last turn of the assistant: the reference for what a model generates."""
        return self.messages[self._last_answer()].content

    def _last_answer(self) -> int:
        return max(i for i, message in enumerate(self.messages) if message.role == "assistant")


class Document(BaseModel):
    """A text to learn the next token of."""

    text: str = Field(min_length=1, description="the text")


class TextPair(BaseModel):
    """A text, and the text that is to be written from it: its translation, its summary."""

    source: str = Field(min_length=1, description="the text that is read")
    target: str = Field(min_length=1, description="the text that is written")


class LabelledText(BaseModel):
    """A text and the class it belongs to; or two texts and that of both together."""

    text: str = Field(min_length=1, description="the text")
    other: str | None = Field(default=None, min_length=1, description="a second text beside it")
    label: str = Field(description="its class; numbers are read as names")


class MultiLabelledText(BaseModel):
    """A text (or two) and all the classes it belongs to."""

    text: str = Field(min_length=1, description="the text")
    other: str | None = Field(default=None, min_length=1, description="a second text beside it")
    labels: list[str] = Field(description="its classes, each once; there may be none")


class ScoredText(BaseModel):
    """A text (or two) and a number that says something of it."""

    text: str = Field(min_length=1, description="the text")
    other: str | None = Field(default=None, min_length=1, description="a second text beside it")
    score: float = Field(allow_inf_nan=False, description="the number")


class RankedTexts(BaseModel):
    """A query, and documents that are relevant for it to a degree."""

    text: str = Field(min_length=1, description="the query")
    documents: list[str] = Field(min_length=1, description="the documents")
    relevance: list[float] = Field(description="how relevant each is; 0: not at all")


class Entity(BaseModel):
    """A run of words that together are something: a person, a place, a dose."""

    model_config = ConfigDict(frozen=True)

    start: int = Field(ge=0, description="its first word, counted from 0")
    end: int = Field(ge=1, description="the word behind its last")
    label: str = Field(min_length=1, description="what it is")


class TaggedText(BaseModel):
    """A text, its words, and the entities in it."""

    text: str = Field(min_length=1, description="the text")
    words: list[tuple[int, int]] = Field(
        min_length=1, description="where each word begins and ends in the text, in characters"
    )
    entities: list[Entity] = Field(description="what is named in it, in order, none overlapping")

    def said(self, entity: Entity) -> str:
        """Return the text of an entity."""
        return self.text[self.words[entity.start][0] : self.words[entity.end - 1][1]]


class Answer(BaseModel):
    """An answer that stands in a text."""

    text: str = Field(min_length=1, description="the answer, as it stands there")
    start: int = Field(ge=0, description="its first character in the text, counted from 0")


class QuestionedText(BaseModel):
    """A text, a question on it, and its answers: parts of the text."""

    text: str = Field(min_length=1, description="the text")
    question: str = Field(min_length=1, description="the question")
    answers: list[Answer] = Field(
        description="the answers, each right alone; none where the text has no answer"
    )


class RelatedTexts(BaseModel):
    """Two texts that belong together, or that are similar to a degree."""

    text: str = Field(min_length=1, description="a text: the query, where the two differ in kind")
    other: str = Field(min_length=1, description="the text that is right for it, or compared")
    wrong: list[str] = Field(default=[], description="texts that are not right for it")
    score: float | None = Field(
        default=None, description="how similar the two are, where that is a matter of degree"
    )


Classified = LabelledText | MultiLabelledText | ScoredText
"""A text, or two, of which something is said as a whole."""
Record = (
    Conversation
    | Document
    | TextPair
    | Classified
    | RankedTexts
    | TaggedText
    | QuestionedText
    | RelatedTexts
)


@dataclass(frozen=True)
class Dropped:
    """A record that was left out, as nothing of it would be learnt: where it stands, and why."""

    origin: str
    reason: str


def text_of(record: BaseModel) -> str:
    """Return all that is said in a record, as one text: what near duplicates are looked for in.

    The label is no part of it: one text under two labels is still one text.
    """
    if isinstance(record, QuestionedText):
        return f"{record.question}\n\n{record.text}"
    if isinstance(record, TextPair):
        return f"{record.source}\n\n{record.target}"
    if isinstance(record, RelatedTexts):
        return f"{record.text}\n\n{record.other}"
    if isinstance(record, Classified) and record.other is not None:
        return f"{record.text}\n\n{record.other}"
    if isinstance(record, RankedTexts):
        return "\n\n".join((record.text, *record.documents))
    if isinstance(record, Conversation):
        return "\n\n".join(_turn_text(message) for message in record.messages)
    return str(getattr(record, "text", ""))


def content_key(record: BaseModel) -> str:
    """Return what two records have in common if and only if they are exact duplicates.

    The text (of a conversation: with who says it) without regard to case and white space.
    """
    if isinstance(record, QuestionedText | RelatedTexts):
        with_it = record.question if isinstance(record, QuestionedText) else record.other
        return "\0".join(" ".join(part.casefold().split()) for part in (with_it, record.text))
    if isinstance(record, TextPair):
        pair = (record.source, record.target)
        return "\0".join(" ".join(part.casefold().split()) for part in pair)
    if isinstance(record, RankedTexts) or (isinstance(record, Classified) and record.other):
        parts = record.documents if isinstance(record, RankedTexts) else [record.other or ""]
        return "\0".join(" ".join(part.casefold().split()) for part in (record.text, *parts))
    if isinstance(record, Conversation):
        turns = [f"{message.role}\0{_turn_text(message)}" for message in record.messages]
        return "\0".join(" ".join(turn.casefold().split()) for turn in turns)
    return " ".join(text_of(record).casefold().split())


def labels_of(record: BaseModel) -> tuple[str, ...]:
    """Return the classes that a record counts towards: its own, or one for each entity in it."""
    if isinstance(record, TaggedText):
        return tuple(entity.label for entity in record.entities)
    if isinstance(record, MultiLabelledText):
        return tuple(record.labels)
    return (record.label,) if isinstance(record, LabelledText) else ()


def _turn_text(message: Message) -> str:
    parts = [message.reasoning_content or "", message.content]
    if message.tool_calls:
        parts.append(json.dumps(message.tool_calls, sort_keys=True))
    return "\n".join(part for part in parts if part)
