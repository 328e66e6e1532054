"""A close look at whole sets of records: what is found stands at its file and line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.tiny import tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.data.dataset import Dataset
from tunesmith.data.records import Conversation, Document, LabelledText, Message, TextPair
from tunesmith.errors import InputError
from tunesmith.quality.findings import KINDS
from tunesmith.runs.deep import DeepCheck, look
from tunesmith.runs.vectors import vectors_of

QUIET = Console(quiet=True)
PLAIN = [
    f"The {a} stood beside the {b} and nobody knew why it was there."
    for a in ("lamp", "horse", "river", "stone", "cloud", "table", "green", "winter")
    for b in ("road", "house", "field", "garden", "tower", "bridge", "harbour", "station")
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("encoder"), "bert"))


def dataset(records: list, name: str = "train") -> Dataset:
    return Dataset(records, [f"{name}.jsonl:{i}" for i in range(1, len(records) + 1)], "text")


def by_kind(found: DeepCheck) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for finding in found.findings:
        kinds.setdefault(finding.kind, []).append(finding.origin)
    return kinds


def test_each_finding_names_its_part_its_line_and_its_reason(encoder: str) -> None:
    train = [Document(text=text) for text in PLAIN]
    train += [Document(text=PLAIN[0].upper()), Document(text="Mail me: ada@engines.org, thanks.")]
    train += [Document(text="Das Wetter wird morgen im Norden sehr schön sein, sagt der Bericht.")]
    test = [Document(text=PLAIN[5]), Document(text="Something else is said in this one.")]
    found = look({"train": dataset(train), "test": dataset(test, "test")}, encoder, QUIET)
    kinds = by_kind(found)
    assert kinds["duplicate"] == ["train.jsonl:65"]
    assert kinds["leak"] == ["test.jsonl:1"]
    assert kinds["personal"] == ["train.jsonl:66"]
    assert kinds["language"] == ["train.jsonl:67"]
    (mail,) = [one for one in found.findings if one.kind == "personal"]
    assert (mail.part, mail.text) == ("train", "Mail me: [EMAIL], thanks.")
    assert found.languages["en"] >= 60
    assert sum(found.lengths.counts) == len(train)


def test_every_kind_is_looked_for_and_says_where_it_could_not(encoder: str) -> None:
    found = look({"train": dataset([Document(text=text) for text in PLAIN[:8]])}, encoder, QUIET)
    assert [one.kind for one in found.looks] == list(KINDS)
    of = {one.kind: one for one in found.looks}
    assert (of["wrong_label"].records, of["wrong_label"].remark) == (
        0,
        "records have no single class",
    )
    assert of["outlier"].remark == "needs 50 records"
    assert of["refusal"].remark == "records have no written answers"


def test_answers_are_judged_and_what_the_user_says_is_not(encoder: str) -> None:
    def chat(question: str, answer: str) -> Conversation:
        turns = [("user", question), ("assistant", answer)]
        return Conversation(messages=[Message(role=r, content=c) for r, c in turns])  # type: ignore[arg-type]

    records = [chat(f"As an AI, what is {i}?", f"It is a number: {i}.") for i in range(5)]
    records += [chat("And why?", "I'm sorry, but as an AI I cannot say.")]
    records += [chat("Who wrote it?", "Ada."), chat("Who wrote it?", "Charles.")]
    kinds = by_kind(look({"train": dataset(records)}, encoder, QUIET))
    assert kinds["refusal"] == ["train.jsonl:6"]
    assert kinds["conflict"] == ["train.jsonl:7", "train.jsonl:8"]


def test_targets_are_judged_as_answers_are_unless_their_source_says_it(encoder: str) -> None:
    def pair(source: str, target: str) -> TextPair:
        return TextPair(source=source, target=target)

    records = [pair(f"Say what {i} is.", f"It is a number, and its name is {i}.") for i in range(4)]
    records += [pair("Say why.", "I'm sorry, but as an AI I cannot say.")]
    records += [pair("Lo siento, pero no puedo.", "I'm sorry, but I cannot.")]
    records += [pair("Say what 1 is.", "One.")]
    found = look({"train": dataset(records)}, encoder, QUIET)
    assert by_kind(found)["refusal"] == ["train.jsonl:5"]
    assert by_kind(found)["conflict"] == ["train.jsonl:2", "train.jsonl:7"]
    assert {look.kind: look.records for look in found.looks}["refusal"] == 7


def test_the_language_of_a_pair_is_that_of_its_target(encoder: str) -> None:
    said = "Der Mann ging am Abend langsam durch den Wald zurück nach Hause, Nummer"
    written = "The man walked slowly home through the forest in the evening, number"
    records = [TextPair(source=f"{said} {i}. {said}", target=f"{written} {i}") for i in range(12)]
    assert look({"train": dataset(records)}, encoder, QUIET).languages == {"en": 12}


def test_labels_of_train_and_test_are_judged_together(encoder: str, monkeypatch) -> None:
    generator = np.random.default_rng(0)

    def vectors(texts, *_) -> np.ndarray:
        return np.array([[4.0 if "good" in text else -4.0, 1.0] for text in texts]) + (
            generator.normal(size=(len(texts), 2))
        )

    monkeypatch.setattr("tunesmith.runs.deep.vectors_of", vectors)
    records = [
        LabelledText(text=f"{name} number {i}", label=name)
        for i in range(30)
        for name in ("good", "bad")
    ]
    test = [
        LabelledText(text="good indeed", label="bad"),
        LabelledText(text="bad too", label="bad"),
    ]
    found = look({"train": dataset(records), "test": dataset(test, "test")}, encoder, QUIET)
    (wrong,) = [one for one in found.findings if one.kind == "wrong_label"]
    assert (wrong.part, wrong.origin, wrong.suggestion) == ("test", "test.jsonl:1", "good")
    assert found.classes == {"train": {"bad": 30, "good": 30}, "test": {"bad": 2}}


def test_vectors_have_length_one_and_do_not_depend_on_their_neighbours(encoder: str) -> None:
    vectors = vectors_of([*PLAIN[:4], "", PLAIN[0] * 20], encoder, QUIET)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(6))
    alone = vectors_of([PLAIN[2]], encoder, QUIET)
    assert vectors[2] == pytest.approx(alone[0], abs=1e-5)


def test_check_takes_a_close_look_and_writes_a_page(tmp_path: Path, encoder: str) -> None:
    rows = [
        {"text": f"{word} {text}", "label": label}
        for text in PLAIN[:16]
        for word, label in (("Good:", "good"), ("Bad:", "bad"))
    ]
    lines = (json.dumps(row) for row in rows)
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    recipe = {
        "model": encoder,
        "task": "classification",
        "data": {"train": str(tmp_path / "train.jsonl")},
        "technique": "repurpose",
    }
    page = tmp_path / "check.html"
    found = api.check(recipe, deep=True, encoder=encoder, show=2, html=page, console=QUIET)
    assert found.deep is not None
    assert found.page == str(page)
    text = page.read_text(encoding="utf-8")
    assert "What was looked for" in text
    assert "Records as the model sees them" in text
    assert found.shown[0].learnt in ("good", "bad")
    assert api.check(recipe, console=QUIET).deep is None


def test_a_page_without_a_folder_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    recipe = {"model": "none", "task": "instruct", "data": {"train": "none.jsonl"}}
    with pytest.raises(InputError, match="no such folder"):
        api.check(recipe, html=tmp_path / "none" / "check.html", console=QUIET)
