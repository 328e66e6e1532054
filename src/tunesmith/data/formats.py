"""Recognises the format of rows by their field names, and turns each row into a record.

    alpaca              instruction, output [, input, system, history]   ─> Conversation
    chat                messages [, tools]                               ─> Conversation
    sharegpt            conversations [, system, tools]                  ─> Conversation
    prompt_completion   prompt, completion                               ─> Conversation
    text                text                                             ─> Document
    text_label          text, label [, text_pair]                        ─> LabelledText
    pair_label          sentence1, sentence2, label                      ─> LabelledText
    inference           premise, hypothesis, label                       ─> LabelledText
    text_labels         text, labels [, text_pair]                       ─> MultiLabelledText
    text_score          text, score [, text_pair]                        ─> ScoredText
    pair_score          sentence1, sentence2, score                      ─> ScoredText
    query_documents     query, documents, relevance                      ─> RankedTexts
    tokens_tags         tokens, tags          (BIO, IOBES, BILOU)        ─> TaggedText
    tokens_iob1         the same in IOB1: by name only                   ─> TaggedText
    text_entities       text, entities                                   ─> TaggedText
    anchor_positive     anchor, positive [, negative, negatives]         ─> RelatedTexts
    scored_pair         sentence1, sentence2, score                      ─> RelatedTexts
    source_target       source, target                                   ─> TextPair
    translation         translation: {en: …, fr: …}                      ─> TextPair
    document_summary    document, summary                                ─> TextPair
    article_highlights  article, highlights                              ─> TextPair
    dialogue_summary    dialogue, summary                                ─> TextPair
    text_summary        text, summary                                    ─> TextPair
    squad               context, question, answers [, is_impossible]     ─> QuestionedText

A format is never guessed: it is the one whose fields all rows have, it is named in the output, and
where two would do the recipe must say which. A row that does not fit is a `DataError` that names
the record, the field, what was found, what was expected, and the format that is nearest. Files are
not known here, only rows and where they came from. The conversations' turns are read in `turns`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from tunesmith.data.labelled import (
    read_inference_row,
    read_label_row,
    read_labels_row,
    read_pair_label_row,
    read_pair_score_row,
    read_ranked_row,
    read_score_row,
    some_text,
)
from tunesmith.data.pairs import PAIRS, read_instruction_row, reader
from tunesmith.data.questions import read_question_row
from tunesmith.data.records import (
    Conversation,
    Document,
    Dropped,
    LabelledText,
    Message,
    MultiLabelledText,
    QuestionedText,
    RankedTexts,
    RelatedTexts,
    ScoredText,
    TaggedText,
    TextPair,
)
from tunesmith.data.related import read_related_row, read_scored_row
from tunesmith.data.tagged import read_iob1_row, read_spans_row, read_tags_row
from tunesmith.data.turns import (
    NothingToLearnError,
    RowError,
    read_messages,
    read_sharegpt,
    read_tools,
    require_answer,
    text_field,
)
from tunesmith.errors import DataError

Row = Mapping[str, Any]
OR_DROP = " Or leave out records of which nothing would be learnt: `data.unlearnable: drop`."
"""What to add to the advice where a record is refused because nothing would be learnt of it."""
_SHOWN = 3


@dataclass(frozen=True)
class Format:
    """One way to write records.

    Attributes:
        name: how a recipe names it.
        required: fields that every row has.
        optional: fields that are read where they are there; any other field is left aside.
        record: what a row becomes, and so which tasks it serves.
        convert: turns a row into that; raises `RowError`.
        example: one row, as JSON.
        by_name: it is never recognised, as another has the same fields; a recipe must name it.
        as_pair: turns a row into a source with its target, where it may be read as that too.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    record: type[BaseModel]
    convert: Callable[[Row], BaseModel]
    example: str
    by_name: bool = False
    as_pair: Callable[[Row], TextPair] | None = None

    def serves(self, record_type: type[BaseModel]) -> bool:
        """Return whether a row can become such a record."""
        return self.record is record_type or (record_type is TextPair and self.as_pair is not None)

    def becoming(self, record_type: type[BaseModel]) -> Format:
        """Return the format whose rows become such records, which it must serve."""
        if self.record is record_type or self.as_pair is None:
            return self
        return replace(self, record=TextPair, convert=self.as_pair)

    def fits(self, fields: Sequence[str]) -> bool:
        """Return whether a row with these fields can be of this format."""
        return set(self.required) <= set(fields)

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.required)})"


def _alpaca(row: Row) -> Conversation:
    instruction, extra = text_field(row, "instruction"), text_field(row, "input", needed=False)
    messages = _system(row)
    for pair in row.get("history") or []:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise RowError("history", pair, "a list of [instruction, output] pairs")
        messages.append(Message(role="user", content=str(pair[0])))
        messages.append(Message(role="assistant", content=str(pair[1])))
    prompt = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    messages.append(Message(role="user", content=prompt))
    messages.append(Message(role="assistant", content=text_field(row, "output")))
    return require_answer(Conversation(messages=messages), "output")


def _chat(row: Row) -> Conversation:
    messages = read_messages(row["messages"], "messages")
    return require_answer(Conversation(messages=messages, tools=read_tools(row)), "messages")


def _sharegpt(row: Row) -> Conversation:
    messages = _system(row) + read_sharegpt(row["conversations"])
    conversation = Conversation(messages=messages, tools=read_tools(row))
    return require_answer(conversation, "conversations")


def _prompt_completion(row: Row) -> Conversation:
    messages = [*_side(row, "prompt", "user"), *_side(row, "completion", "assistant")]
    return require_answer(Conversation(messages=messages, tools=read_tools(row)), "completion")


def _side(row: Row, field: str, role: Any) -> list[Message]:
    if isinstance(row[field], list):
        return read_messages(row[field], field)
    return [Message(role=role, content=text_field(row, field))]


def _system(row: Row) -> list[Message]:
    system = text_field(row, "system", needed=False)
    return [Message(role="system", content=system)] if system else []


def _text(row: Row) -> Document:
    return Document(text=some_text(row, "text"))


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format(
            "alpaca", ("instruction", "output"), ("input", "system", "history"), Conversation,
            _alpaca, '{"instruction": "Name a colour.", "input": "", "output": "Blue."}',
            as_pair=read_instruction_row,
        ),
        Format(
            "chat", ("messages",), ("tools",), Conversation, _chat,
            '{"messages": [{"role": "user", "content": "Hi"}, '
            '{"role": "assistant", "content": "Hello."}]}',
        ),
        Format(
            "sharegpt", ("conversations",), ("system", "tools"), Conversation, _sharegpt,
            '{"conversations": [{"from": "human", "value": "Hi"}, '
            '{"from": "gpt", "value": "Hello."}]}',
        ),
        Format(
            "prompt_completion", ("prompt", "completion"), ("tools",), Conversation,
            _prompt_completion, '{"prompt": "Name a colour.", "completion": "Blue."}',
            as_pair=reader("prompt", "completion"),
        ),
        Format("text", ("text",), (), Document, _text, '{"text": "Once upon a time ..."}'),
        Format(
            "text_label", ("text", "label"), ("text_pair",), LabelledText, read_label_row,
            '{"text": "A fine film.", "label": "positive"}',
        ),
        Format(
            "pair_label", ("sentence1", "sentence2", "label"), (), LabelledText,
            read_pair_label_row,
            '{"sentence1": "A cat sits.", "sentence2": "A cat is sitting.", "label": "same"}',
        ),
        Format(
            "inference", ("premise", "hypothesis", "label"), (), LabelledText, read_inference_row,
            '{"premise": "A cat sits.", "hypothesis": "It runs.", "label": "contradiction"}',
        ),
        Format(
            "text_labels", ("text", "labels"), ("text_pair",), MultiLabelledText, read_labels_row,
            '{"text": "Late, and broken.", "labels": ["delivery", "quality"]}',
        ),
        Format(
            "text_score", ("text", "score"), ("text_pair",), ScoredText, read_score_row,
            '{"text": "A fine film.", "score": 4.5}',
        ),
        Format(
            "pair_score", ("sentence1", "sentence2", "score"), (), ScoredText, read_pair_score_row,
            '{"sentence1": "A cat sits.", "sentence2": "A cat is sitting.", "score": 4.8}',
        ),
        Format(
            "query_documents", ("query", "documents", "relevance"), (), RankedTexts,
            read_ranked_row,
            '{"query": "How do I pay?", "documents": ["Ways to pay", "Returns"], '
            '"relevance": [1, 0]}',
        ),
        Format(
            "tokens_tags", ("tokens", "tags"), (), TaggedText, read_tags_row,
            '{"tokens": ["Ada", "Lovelace", "wrote"], "tags": ["B-PER", "I-PER", "O"]}',
        ),
        Format(
            "tokens_iob1", ("tokens", "tags"), (), TaggedText, read_iob1_row,
            '{"tokens": ["Ada", "Lovelace", "wrote"], "tags": ["I-PER", "I-PER", "O"]}',
            by_name=True,
        ),
        Format(
            "text_entities", ("text", "entities"), (), TaggedText, read_spans_row,
            '{"text": "Ada wrote", "entities": [{"start": 0, "end": 3, "label": "PER"}]}',
        ),
        Format(
            "squad", ("context", "question", "answers"), ("is_impossible", "id", "title"),
            QuestionedText, read_question_row,
            '{"context": "Ada wrote.", "question": "Who wrote?", '
            '"answers": {"text": ["Ada"], "answer_start": [0]}}',
        ),
        Format(
            "anchor_positive", ("anchor", "positive"), ("negative", "negatives"), RelatedTexts,
            read_related_row, '{"anchor": "How do I pay?", "positive": "Ways to pay"}',
        ),
        Format(
            "scored_pair", ("sentence1", "sentence2", "score"), (), RelatedTexts, read_scored_row,
            '{"sentence1": "A cat sits.", "sentence2": "A cat is sitting.", "score": 4.8}',
        ),
        *(Format(name, fields, (), TextPair, read, example)
          for name, (fields, read, example) in PAIRS.items()),
    )
}  # fmt: skip
"""Every format, by name. `record` of each says which tasks it serves."""


def serving(record_type: type[BaseModel]) -> list[Format]:
    """Return the formats that become `record_type`."""
    return [format for format in FORMATS.values() if format.serves(record_type)]


def describe(record_type: type[BaseModel]) -> str:
    """Return one line for each format that serves `record_type`, with an example."""
    return "\n".join(f"{format.name}: {format.example}" for format in serving(record_type))


def detect(rows: Sequence[Row], record_type: type[BaseModel], where: str) -> Format:
    """Return the format of these rows that serves `record_type`.

    It is told by the fields that most of the rows have, so that one odd record is reported as
    what it is.

    Raises:
        DataError: none fits, none that fits serves the task, or more than one does.
    """
    counts: dict[str, int] = {}
    for row in rows:
        for name in row:
            counts[name] = counts.get(name, 0) + 1
    fields = [name for name, count in counts.items() if 2 * count > len(rows)]
    fitting = [f for f in FORMATS.values() if f.fits(fields) and not f.by_name]
    wanted = [format for format in fitting if format.serves(record_type)]
    if len(wanted) == 1:
        return wanted[0].becoming(record_type)
    if wanted:
        names = " and ".join(format.name for format in wanted)
        raise DataError(
            f"The records can be read as {names}.",
            where=where,
            fix=f"Say which: data.format: {wanted[0].name}.",
        )
    raise _unfit(fields, fitting, record_type, where)


def _unfit(
    fields: Sequence[str], fitting: Sequence[Format], record_type: type[BaseModel], where: str
) -> DataError:
    accepted = "; or ".join(str(format) for format in serving(record_type))
    shown = ", ".join(map(repr, fields)) or "no field in common"
    nearest = _nearest(fields, serving(record_type))
    lacking = [name for name in nearest.required if name not in fields]
    hint = ", ".join(f"{name}: <its name here>" for name in lacking)
    fix = f"The nearest is {nearest.name}, e.g. {nearest.example}; if the field is there under "
    fix += f"another name, say so: data.columns: {{{hint}}}."
    if fitting:
        found = " or ".join(format.name for format in fitting)
        what = f"The records are {found} (fields {shown}); this task learns from {accepted}."
    else:
        what = f"The fields {shown} are no known format; this task learns from {accepted}."
    return DataError(what, where=where, fix=fix)


def _nearest(fields: Sequence[str], formats: Sequence[Format]) -> Format:
    """Return the format most of whose fields are there, under their own name or one like it."""

    def closeness(format: Format) -> float:
        found = [
            1.0 if name in fields else 0.5 * bool(get_close_matches(name, fields, n=1, cutoff=0.7))
            for name in format.required
        ]
        return sum(found) / len(found)

    return max(formats, key=closeness)


@dataclass(frozen=True)
class Converted:
    """What rows became: records, the place of the row of each, and the rows that were left out."""

    records: list[BaseModel]
    places: list[int]
    dropped: list[Dropped]


def convert_all(
    rows: Sequence[Row], origins: Sequence[str], format: Format, where: str, *, drop: bool = False
) -> Converted:
    """Turn every row into a record.

    Args:
        drop: leave rows out of which nothing would be learnt; otherwise they are wrong as well.

    Raises:
        DataError: some do not fit; names the first few and how many there are.
    """
    converted = Converted([], [], [])
    wrong: list[str] = []
    unlearnable = 0
    for place, (row, origin) in enumerate(zip(rows, origins, strict=True)):
        try:
            converted.records.append(_convert(row, format))
            converted.places.append(place)
        except RowError as error:
            empty = isinstance(error, NothingToLearnError)
            if empty and drop:
                converted.dropped.append(Dropped(origin, str(error)))
                continue
            unlearnable += empty
            wrong.append(f"record {place + 1} ({origin}): {error}{_other_format(row, format)}")
    if not wrong:
        return converted
    more = len(wrong) - _SHOWN
    count = f"; and {more} more ({len(wrong)} of {len(rows)} records)" if more > 0 else ""
    raise DataError(
        f"Not every record is {format.name}: {'; '.join(wrong[:_SHOWN])}{count}.",
        where=where,
        fix=f"One record of this format: {format.example}{OR_DROP if unlearnable else ''}",
    )


def _convert(row: Row, format: Format) -> BaseModel:
    for field in format.required:
        if field not in row:
            raise RowError(field, None, "a field of that name", missing=sorted(row))
    return format.convert(row)


def _other_format(row: Row, format: Format) -> str:
    others = [
        f for f in FORMATS.values() if f.fits(list(row)) and not f.by_name and f is not format
    ]
    if format.fits(list(row)) or not others:
        return ""
    return f" (this one looks like {others[0].name})"
