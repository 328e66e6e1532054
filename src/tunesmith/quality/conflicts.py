"""Finds one prompt, text or source that is answered differently in different records.

    records ──find_conflicts──> groups of places

A model can learn only their mixture. Prompts and texts are compared without regard to case and
white space, answers as they are but for white space. Which answer is right is not known here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pydantic import BaseModel

from tunesmith.data.records import (
    Conversation,
    QuestionedText,
    TaggedText,
    TextPair,
    content_key,
)


def find_conflicts(records: Sequence[BaseModel]) -> list[list[int]]:
    """Return groups of places of records that ask the same and are answered differently."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        places[asked_key(record)].append(place)
    return [
        group
        for group in places.values()
        if len(group) > 1 and len({answer_of(records[place]) for place in group}) > 1
    ]


def asked_key(record: BaseModel) -> str:
    """Return what two records have in common if and only if they ask the same."""
    if isinstance(record, Conversation):
        if not record.prompt:
            return content_key(record)
        return content_key(Conversation.model_construct(messages=record.prompt))
    if isinstance(record, TextPair):
        return " ".join(record.source.casefold().split())
    return content_key(record)


def answer_of(record: BaseModel) -> str:
    """Return what is to be learnt of a record, as one text; nothing where its text is all."""
    if isinstance(record, Conversation):
        return " ".join(record.answer.split())
    if isinstance(record, TextPair):
        return " ".join(record.target.split())
    if isinstance(record, QuestionedText):
        return " | ".join(sorted({answer.text for answer in record.answers})) or "no answer"
    if isinstance(record, TaggedText):
        said = (f"{record.said(entity)} ({entity.label})" for entity in record.entities)
        return ", ".join(said)
    learnt = record.model_dump(include={"label", "labels", "score", "relevance"})
    return ", ".join(str(value) for value in learnt.values() if value is not None)
