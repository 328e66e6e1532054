"""One raw example, as a task reads it: the three shapes that every record format becomes.

A file may hold Alpaca, chat, ShareGPT, prompt/completion, text or text/label records
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


class LabelledText(BaseModel):
    """A text and the class it belongs to."""

    text: str = Field(min_length=1, description="the text")
    label: str = Field(description="its class; numbers are read as names")


Record = Conversation | Document | LabelledText


@dataclass(frozen=True)
class Dropped:
    """A record that was left out, as nothing of it would be learnt: where it stands, and why."""

    origin: str
    reason: str


def text_of(record: BaseModel) -> str:
    """Return all that is said in a record, as one text: what near duplicates are looked for in.

    The label is no part of it: one text under two labels is still one text.
    """
    if isinstance(record, Conversation):
        return "\n\n".join(_turn_text(message) for message in record.messages)
    return str(getattr(record, "text", ""))


def content_key(record: BaseModel) -> str:
    """Return what two records have in common if and only if they are exact duplicates.

    The text (of a conversation: with who says it) without regard to case and white space.
    """
    if isinstance(record, Conversation):
        turns = [f"{message.role}\0{_turn_text(message)}" for message in record.messages]
        return "\0".join(" ".join(turn.casefold().split()) for turn in turns)
    return " ".join(text_of(record).casefold().split())


def _turn_text(message: Message) -> str:
    parts = [message.reasoning_content or "", message.content]
    if message.tool_calls:
        parts.append(json.dumps(message.tool_calls, sort_keys=True))
    return "\n".join(part for part in parts if part)
