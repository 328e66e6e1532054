"""The tasks over the real engine, packed in batches, score as over the stock model, one by one."""

from __future__ import annotations

import pytest
from tests.tasks.plain_engine import PlainEngine
from tests.tiny import tiny_model

from tunesmith.console import Console
from tunesmith.data.records import Conversation, Document, Entity, LabelledText, Message, TaggedText
from tunesmith.data.tagged import of_words
from tunesmith.engine.engine import Engine
from tunesmith.registry import TASKS

LABELS = ("art", "law", "sea")
TEXTS = ("salt", "a painted wall", "the court said so, and said it twice", "oil", "fish " * 12)


def data(task: str) -> list[Document | LabelledText | TaggedText | Conversation]:
    if task == "language_modeling":
        return [Document(text=text) for text in TEXTS]
    if task == "classification":
        return [LabelledText(text=t, label=LABELS[i % 3]) for i, t in enumerate(TEXTS)]
    if task == "tagging":
        return [
            of_words(text.split(), [Entity(start=0, end=1, label=LABELS[i % 3])])
            for i, text in enumerate(TEXTS)
        ]
    turns = [
        [Message(role="user", content=t), Message(role="assistant", content=t[::-1])] for t in TEXTS
    ]
    return [Conversation(messages=messages) for messages in turns]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("classification", "bert"),
        ("classification", "roberta"),
        ("classification", "llama"),
        ("classification", "gpt2"),
        ("tagging", "bert"),
        ("tagging", "deberta-v2"),
        ("tagging", "llama"),
        ("tagging", "gpt2"),
        ("language_modeling", "llama"),
        ("language_modeling", "gpt2"),
        ("instruct", "llama"),
        ("instruct", "qwen3"),
    ],
)
def test_scores_of_the_engine_equal_those_of_the_stock_model(name: str, family: str):
    kind = TASKS.get(name)
    task = kind()
    records = data(name)
    task.study(records)
    model = tiny_model(family, kind.head, task.labels)
    task.bind(model)
    examples = task.encode_all(records)
    theirs, ours = (
        task.measure(engine, records, examples, generate=0, console=Console(quiet=True))
        for engine in (PlainEngine(model), Engine(model))
    )
    for plain, score in zip(theirs, ours, strict=True):
        assert score.output == plain.output
        assert score.statistics == pytest.approx(plain.statistics, abs=2e-4)


def test_generated_answers_of_the_engine_equal_those_of_the_stock_model():
    task = TASKS.get("instruct")(TASKS.get("instruct").Options(max_new_tokens=8))
    model = tiny_model("llama")
    task.bind(model)
    inputs = ["salt", "a painted wall", "fish fish"]
    ours, theirs = (
        [p.text for p in task.predict(engine, inputs)]
        for engine in (Engine(model), PlainEngine(model))
    )
    assert ours == theirs
