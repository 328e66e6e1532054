"""Reads questions on a text with their answers, as SQuAD 1.1 and 2.0 write them.

    {"question", "context", "answers": {"text": [...], "answer_start": [...]}}    ─> QuestionedText
    {"title", "paragraphs": [{"context", "qas": [...]}]}  ──questions_of──>  such rows

An answer must stand in the text where the row says; a question without answers has none in its
text (`is_impossible`). What is wrong is a `RowError` that names the field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.records import Answer, QuestionedText
from tunesmith.data.turns import NothingToLearnError, RowError, text_field

Row = Mapping[str, Any]


def questions_of(
    rows: Sequence[dict[str, Any]], origins: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each question of articles that hold paragraphs; other rows as they are.

    The origin of a question is that of its article and its own `id` (its number, where it has none
    or shares it with another).
    """
    found: list[dict[str, Any]] = []
    places: list[str] = []
    for row, origin in zip(rows, origins, strict=True):
        paragraphs = paragraphs_of(row)
        if paragraphs is None:
            found.append(row)
            places.append(origin)
            continue
        beside = {name: value for name, value in row.items() if name != "paragraphs"}
        questions = [
            {**beside, "context": part.get("context"), **question}
            for part in paragraphs
            for question in asked_in(part)
        ]
        found += questions
        names = Counter(str(question.get("id")) for question in questions)
        for number, question in enumerate(questions, start=1):
            name = str(question.get("id"))
            places.append(f"{origin}#{name if names[name] == 1 and 'id' in question else number}")
    return found, places


def paragraphs_of(row: Row) -> list[Row] | None:
    """Return the paragraphs of an article with questions on them; None of any other row."""
    paragraphs = row.get("paragraphs")
    if not isinstance(paragraphs, list) or not all(
        isinstance(part, Mapping) and isinstance(part.get("qas"), list) for part in paragraphs
    ):
        return None
    return paragraphs


def asked_in(paragraph: Row) -> list[Row]:
    """Return the questions of a paragraph, each of which becomes a row."""
    return [question for question in paragraph["qas"] if isinstance(question, Mapping)]


def read_question_row(row: Row) -> QuestionedText:
    """Read one question on one text."""
    text, question = text_field(row, "context"), text_field(row, "question")
    if not text.strip():
        raise NothingToLearnError("context", text, "a text with something in it")
    if not question.strip():
        raise NothingToLearnError("question", question, "a question")
    answers = [_answer(*pair, text) for pair in _pairs(row["answers"])]
    if row.get("is_impossible") and answers:
        raise RowError("answers", answers[0].text, "no answer, as is_impossible says")
    return QuestionedText(text=text, question=question, answers=answers)


def _pairs(given: Any) -> list[tuple[str, Any, Any]]:
    """Return (path, text, start) of each answer, from either way of writing them."""
    if isinstance(given, Mapping):
        texts, starts = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list | tuple):
            raise RowError("answers.text", texts, "a list of texts")
        if not isinstance(starts, list | tuple) or len(starts) != len(texts):
            raise RowError("answers.answer_start", starts, f"a list of {len(texts)} numbers")
        pairs = zip(texts, starts, strict=True)
        return [(f"answers[{i}]", text, start) for i, (text, start) in enumerate(pairs)]
    if not isinstance(given, list | tuple):
        raise RowError(
            "answers", given, 'answers such as {"text": ["Paris"], "answer_start": [24]}'
        )
    for i, item in enumerate(given):
        if not isinstance(item, Mapping):
            raise RowError(f"answers[{i}]", item, 'an object {"text": ..., "answer_start": ...}')
    return [
        (f"answers[{i}]", item.get("text"), item.get("answer_start"))
        for i, item in enumerate(given)
    ]


def _answer(path: str, answer: Any, start: Any, text: str) -> Answer:
    if not isinstance(answer, str) or not answer.strip():
        raise RowError(f"{path}.text", answer, "a part of the context (none: an empty list)")
    if not isinstance(start, int) or isinstance(start, bool):
        raise RowError(f"{path}.answer_start", start, "the place of its first character")
    if start < 0 or text[start : start + len(answer)] != answer:
        place = text.find(answer)
        stands = f"it stands at {place}" if place >= 0 else "it stands nowhere in the context"
        raise RowError(
            f"{path}.answer_start", start, f"the place of {answer[:40]!r} in the context: {stands}"
        )
    return Answer(text=answer, start=start)
