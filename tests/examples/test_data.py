"""The data of the examples: enough of it, nothing on both sides, licences named, recipes load."""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from pathlib import Path
from types import ModuleType

import pytest
from examples.chatbot import build as chatbot
from examples.contracts import build as contracts
from examples.financial import build as financial
from examples.interface_translation import build as translation
from examples.medical import build as medical
from examples.named_entities import build as named_entities
from examples.sentiment import build as sentiment

from tunesmith.data.splits import load_splits
from tunesmith.recipes.load import load_recipe
from tunesmith.registry import TASKS

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPES = sorted(EXAMPLES.glob("*/recipe.yaml"))
SYNTHETIC = (chatbot, contracts, financial, named_entities)


def pairs(name: str) -> list[tuple[str, str]]:
    lines = (EXAMPLES / "interface_translation" / name).read_text(encoding="utf-8").splitlines()
    return [(record["input"], record["output"]) for record in map(json.loads, lines)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_each_recipe_loads_and_its_data_fits_its_task(path: Path) -> None:
    recipe = load_recipe(path)
    splits = load_splits(recipe.data, TASKS.get(recipe.task.name).Record, False, seed=0)
    assert len(splits.train.records) >= 32
    assert len(splits.test.records) >= 16
    assert not splits.warnings


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_each_example_names_source_and_licence(path: Path) -> None:
    text = (path.parent / "README.md").read_text(encoding="utf-8")
    assert "## Source and licence" in text


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_each_example_is_listed_where_a_reader_looks(path: Path) -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert f"]({path.parent.name}/README.md)" in listed


@pytest.mark.parametrize("build", SYNTHETIC, ids=lambda build: build.__name__.split(".")[-2])
def test_a_synthetic_set_says_so_and_is_made_anew_to_the_byte(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(str(build.__file__)).parent
    assert "synthetic" in (folder / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(build, "__file__", str(tmp_path / "build.py"))
    build.main()
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(made) == 2
    assert made == {name: (folder / name).read_bytes() for name in made}


def test_no_name_of_the_entities_test_was_learnt() -> None:
    text = (EXAMPLES / "named_entities" / "train.jsonl").read_text(encoding="utf-8")
    for names in named_entities.NAMES["test"].values():
        assert not [name for name in names.split("|") if name in text]


def test_no_payee_of_the_statements_test_was_learnt() -> None:
    text = (EXAMPLES / "financial" / "train.csv").read_text(encoding="utf-8").casefold()
    for _, payees in financial.PAYEES.values():
        assert not [payee for payee in payees.split("|") if payee.casefold() in text]


def test_some_questions_on_contracts_have_no_answer() -> None:
    lines = (EXAMPLES / "contracts" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    answered = [bool(json.loads(line)["answers"]["text"]) for line in lines]
    assert 0.1 < answered.count(False) / len(answered) < 0.35


def test_an_exam_question_of_two_subjects_is_taken_once() -> None:
    seen: dict[str, str] = {}
    one = "Which nerve runs beneath the skin here ?"
    assert medical.fresh(iter([one, "Too short"]), "anatomy", seen) == [one]
    assert medical.fresh(iter([one.upper()]), "surgery", seen) == []


def test_no_translation_in_test_is_related_to_one_in_train() -> None:
    train, test = pairs("train.jsonl"), pairs("test.jsonl")
    assert (len(train), len(test)) == (407, 160)
    for one in test:
        for other in train:
            assert translation.likeness(one, other) < translation.RELATED, (one, other)


def test_likeness_is_difflibs_ratio_over_words() -> None:
    one, other = ("Add a page", "x"), ("add a document!", "y")
    words = SequenceMatcher(None, ["add", "a", "page"], ["add", "a", "document"])
    assert translation.likeness(one, other) == words.ratio()


def test_catalogue_entries_that_are_fuzzy_or_plural_are_passed_over() -> None:
    catalogue = (
        'msgid "Save the page"\nmsgstr "Enregistrer "\n"la page"\n\n'
        '#, fuzzy\nmsgid "Open the page"\nmsgstr "Ouvrir"\n\n'
        'msgid "One page"\nmsgid_plural "Two pages"\nmsgstr[0] "Une page"\n\n'
        '#~ msgid "Old text"\n#~ msgstr "Vieux"\n'
    )
    assert list(translation.entries(catalogue)) == [("Save the page", "Enregistrer la page")]


def test_a_review_sentence_near_zero_has_no_label() -> None:
    rows = [
        ("1", 2.0, "a very good phone indeed"),
        ("1", 0.3, "it is a phone i think"),
        ("2", -2.0, "a very bad phone indeed"),
        ("2", -2.0, "A very bad phone, indeed!"),
    ]
    assert sentiment.labelled(rows) == {
        "1": [("a very good phone indeed", "positive")],
        "2": [("a very bad phone indeed", "negative")],
    }
