"""Small jobs for whole-command tests: records, recipes of six lines, and what a command leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WORDS = ("apple", "river", "stone", "cloud", "lamp", "horse", "paper", "green", "song", "winter")
ANSWERS = [
    {"prompt": f"Say {a} {b}", "completion": f"{b} {a}"} for a in WORDS[:5] for b in WORDS[5:]
]
TEXTS = [{"text": f"The {a} met the {b}."} for a in WORDS[:5] for b in WORDS[5:]]
CLASSES = [
    {"text": f"The {a} was {b} {i}", "label": label}
    for i, a in enumerate(WORDS)
    for b, label in (("fine", "good"), ("poor", "bad"))
]
TAGGED = [
    {"tokens": ["The", a, "met", "the", b, "twice"],
     "tags": ["O", "B-THING", "O", "O", "B-THING", "I-THING"]}
    for a in WORDS[:5] for b in WORDS[5:]
]  # fmt: skip
ASKED = [
    {"context": f"The {a} met the {b}.", "question": "Whom?",
     "answers": {"text": [b], "answer_start": [f"The {a} met the {b}.".index(b)]}}
    for a in WORDS[:5] for b in WORDS[5:]
]  # fmt: skip
RELATED = [
    {"anchor": f"Where is the {a}?", "positive": f"The {a} is near the {b}."}
    for a in WORDS[:5] for b in WORDS[5:]
]  # fmt: skip


SEVERAL = [
    {"text": row["text"], "labels": [row["label"], *["early"] * (i % 4 < 2)]}
    for i, row in enumerate(CLASSES)
]
NUMBERS = [{"text": row["text"], "score": i % 5 - 2} for i, row in enumerate(CLASSES)]
RANKED = [
    {"query": f"Where is the {a}?",
     "documents": [f"The {a} is near the {b}.", f"The {b} is here.", "No one knows."][::way],
     "relevance": [2, 1, 0][::way]}
    for a, b in zip(WORDS[:5] * 4, WORDS, strict=False) for way in (1, -1)
]  # fmt: skip

TRANSLATED = [
    {"source": f"Say {a} {b}", "target": f"{b} {a}"} for a in WORDS[:5] for b in WORDS[5:]
]


@dataclass(frozen=True)
class Said:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one document on standard output; anything else there is an error."""
        read: dict[str, Any] = json.loads(self.out)
        return read


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as the text of a .jsonl file."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def recipe(**sections: object) -> str:
    """Return a recipe of one line a section: small, quick, and right once a `model` is given.

    The order, and so the line, is: model, task, data, technique, training, evaluation, others.
    """
    whole = {
        "model": None,
        "task": "{name: instruct, max_new_tokens: 4}",
        "data": "{train: train.jsonl}",
        "technique": "{name: lora, rank: 2}",
        "training": "{max_steps: 2, batch_size: 4}",
        "evaluation": "{generate: 0, probe: false, resamples: 100}",
    }
    return "".join(f"{key}: {value}\n" for key, value in (whole | sections).items())
