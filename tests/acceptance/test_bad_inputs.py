"""What is wrong is told before anything is trained: what, where, what to do; and nothing is left.

Each row of the table is one bad input. `check` and `train --json` both refuse it, with the same
message, exit code 2, no traceback, and every file as it was before.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.acceptance.jobs import ANSWERS, CLASSES, TAGGED, TEXTS, lines, recipe

from tunesmith.cli.contracts.document import ErrorDocument

BROKEN_UTF8 = lines(ANSWERS[:3]).encode() + b'{"prompt": "caf\xe9", "completion": "x"}\n'
BROKEN_JSON = lines(ANSWERS[:16]) + '{"prompt": "a", "completion": }\n' + lines(ANSWERS[17:])
OF_TAGS = {"task": "tagging", "data": "{train: train.conll}", "technique": "full"}
OF_CLASSES = {"task": "classification", "data": "{train: class.jsonl}", "technique": "full"}
ON_FILE = OF_CLASSES | {"data": "{train: class.jsonl, test: test.jsonl}"}
OF_TEXTS = {"task": "language_modeling", "data": "{train: texts.jsonl}"}


def third(**row: object) -> str:
    """Return records of which the third is another."""
    return lines([*ANSWERS[:2], row, *ANSWERS[3:]])


@dataclass(frozen=True)
class Bad:
    """A bad input and what must be said of it.

    Attributes:
        where: the place in the message, without the current folder; None: the message names it.
        what: a part of what is said.
        fix: a part of the advice.
        sections: sections of the recipe that are not as usual.
        files: files that are not as usual.
        options: further words on the command line.
        text: the whole recipe, in place of the usual one.
        model: family of the model.
    """

    where: str | None
    what: str
    fix: str
    sections: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    text: str | None = None
    model: str = "llama"


RECIPES = {
    "typo in a section": Bad(
        "recipe.yaml:7: trainig", "no option 'trainig'", "Did you mean 'training'?",
        {"trainig": "{epochs: 1}"},
    ),
    "typo in an option": Bad(
        "recipe.yaml:5: training.max_step", "no option 'max_step'", "Did you mean 'max_steps'?",
        {"training": "{max_step: 2}"},
    ),
    "typo in a technique's option": Bad(
        "recipe.yaml:4: technique.rnak", "no option 'rnak'", "Did you mean 'rank'?",
        {"technique": "{name: lora, rnak: 2}"},
    ),
    "typo in a task's option": Bad(
        "recipe.yaml:2: task.max_new_token", "no option", "Did you mean 'max_new_tokens'?",
        {"task": "{name: instruct, max_new_token: 2}"},
    ),
    "typo in --set": Bad(
        "--set training.leraning_rate=1", "no option", "Did you mean 'learning_rate'?",
        options=("--set", "training.leraning_rate=1"),
    ),
    "--set without a value": Bad(
        "--set training.seed", "key=value", "--set training.learning_rate=1e-4",
        options=("--set", "training.seed"),
    ),
    "--set below a number": Bad(
        "--set technique.rank.x=1", "technique.rank holds 2, which has no parts", "whole value",
        options=("--set", "technique.rank.x=1"),
    ),
    "option in the wrong section": Bad(
        "recipe.yaml:3: data.seed", "no option 'seed' here", "It belongs elsewhere: training.seed",
        {"data": "{train: train.jsonl, seed: 1}"},
    ),
    "task misspelt": Bad(
        "recipe.yaml:2: task", "no task called 'clasification'", "Did you mean 'classification'?",
        {"task": "clasification"},
    ),
    "technique misspelt": Bad(
        "recipe.yaml:4: technique", "no technique called 'loar'", "Did you mean 'lora'?",
        {"technique": "loar"},
    ),
    "word for a number": Bad(
        "recipe.yaml:5: training.max_steps", "Must be a whole number, not 'two'", "",
        {"training": "{max_steps: two}"},
    ),
    "out of range": Bad(
        "recipe.yaml:5: training.max_steps", "Must be greater than or equal to 1, not 0", "",
        {"training": "{max_steps: 0}"},
    ),
    "learning rate that is no number": Bad(
        "recipe.yaml:5: training.learning_rate", "Must be a finite number, not nan", "",
        {"training": "{learning_rate: .nan}"},
    ),
    "infinite learning rate": Bad(
        "--set training.learning_rate=.inf", "Must be a finite number, not inf", "",
        options=("--set", "training.learning_rate=.inf"),
    ),
    "steps and epochs": Bad(
        "recipe.yaml:5: training.max_steps", "Both max_steps and epochs are set", "Remove one",
        {"training": "{max_steps: 2, epochs: 1}"},
    ),
    "patience without validation": Bad(
        "recipe.yaml:5: training.patience", "patience needs validations", "validate_every",
        {"training": "{patience: 2}"},
    ),
    "last and layers": Bad(
        "recipe.yaml:4: technique", "Give `last` or `layers`, not both", "",
        {"technique": "{name: layers, last: 1, layers: [0]}"},
    ),
    "section missing": Bad(
        "recipe.yaml:1: data", "'data' is missing", "Give it: the records",
        text="model: x\ntask: instruct\n",
    ),
    "key twice": Bad(
        "recipe.yaml:3: model", "stands twice; the first is in line 1", "Remove one of the two",
        text="model: x\ntask: instruct\nmodel: y\ndata: {train: train.jsonl}\n",
    ),
    "no YAML": Bad(
        "recipe.yaml:4", "not valid YAML", "Check the indentation, colons and quotes",
        text="model: x\ntask: instruct\ndata: {train: train.jsonl\n",
    ),
    "empty recipe": Bad("recipe.yaml", "recipe is empty", "`tunesmith init DIR`", text=""),
    "recipe in Latin-1": Bad(
        "recipe.yaml:1", "not UTF-8 text (byte 10)", "Save the file as UTF-8",
        files={"recipe.yaml": b"model: caf\xe9\n"},
    ),
}  # fmt: skip

FILES = {
    "data file missing": Bad(
        "recipe.yaml:3: data.train", "no file 'trian.jsonl'", "Did you mean 'train.jsonl'?",
        {"data": "{train: trian.jsonl}"},
    ),
    "test file missing": Bad(
        "recipe.yaml:3: data.test", "no file 'tets.jsonl'", "Did you mean 'texts.jsonl'?",
        {"data": "{train: train.jsonl, test: tets.jsonl}"},
    ),
    "empty file": Bad(
        "train.jsonl", "The file is empty", "Give it some records", files={"train.jsonl": ""}
    ),
    "blank lines only": Bad(
        "train.jsonl", "holds no records", "some records", files={"train.jsonl": "\n\n"}
    ),
    "broken UTF-8": Bad(
        "train.jsonl:4", "byte 0xe9, the 16th byte of line 4", "as UTF-8",
        files={"train.jsonl": BROKEN_UTF8},
    ),
    "broken JSON at line 17": Bad(
        "train.jsonl:17", "Line 17 is broken JSON at column 31", "one JSON object",
        files={"train.jsonl": BROKEN_JSON},
    ),
    "unknown ending": Bad(
        "a.docx", "'.docx' cannot be read", "Use one of .jsonl",
        {"data": "{train: a.docx}"}, {"a.docx": "x"},
    ),
    "ragged CSV": Bad(
        "a.csv:3", "Line 3 has 3 fields, the header has 2", "in quotes",
        {"data": "{train: a.csv}"}, {"a.csv": "prompt,completion\na,b\nc,d,e\n"},
    ),
    "open quotation mark in CSV": Bad(
        "a.csv:3", "Broken CSV", "Close every quotation mark",
        {"data": "{train: a.csv}"}, {"a.csv": 'prompt,completion\na,b\nc,"d\n'},
    ),
    "no Parquet": Bad(
        "a.parquet", "not a readable Parquet file", "Write it again",
        {"data": "{train: a.parquet}"}, {"a.parquet": "PAR1 and no more"},
    ),
}  # fmt: skip

RECORDS = {
    "a field of the wrong type": Bad(
        "train.jsonl", "record 3 (train.jsonl:3): completion: found 7 (a number), expected a text",
        '{"prompt": "Name a colour.", "completion": "Blue."}',
        files={"train.jsonl": third(prompt="a", completion=7)},
    ),
    "a field missing": Bad(
        "train.jsonl", "record 3 (train.jsonl:3): completion: is missing (found 'prompt')", "One",
        files={"train.jsonl": third(prompt="a")},
    ),
    "records of another task": Bad(
        "train.jsonl", "The records are text or text_label", "The nearest is alpaca",
        files={"train.jsonl": lines(CLASSES)},
    ),
    "records of no known format": Bad(
        "train.jsonl", "The fields 'question', 'answer' are no known format", "data.columns",
        files={"train.jsonl": lines([{"question": "a", "answer": "b"}] * 9)},
    ),
    "a format that does not serve the task": Bad(
        "class.jsonl", "The format text_label does not serve this task", "alpaca, chat",
        {"data": "{train: class.jsonl, format: text_label}"},
    ),
    "a column that is not there": Bad(
        "train.jsonl: columns.prompt", "no field 'promt'", "Did you mean 'prompt'?",
        {"data": "{train: train.jsonl, columns: {prompt: promt}}"},
    ),
    "a group that is not there": Bad(
        "train.jsonl: data.group", "25 of 25 records have no 'topic'", "Known: completion, prompt",
        {"data": "{train: train.jsonl, group: topic}"},
    ),
    "a record with nothing to learn": Bad(
        "train.jsonl", "record 3 (train.jsonl:3): completion: found an empty text",
        "Or leave out records of which nothing would be learnt: `data.unlearnable: drop`",
        files={"train.jsonl": third(prompt="a", completion=" ")},
    ),
    "a conversation without an answer": Bad(
        "train.jsonl", "at least one turn of the assistant: there is nothing to learn", "One",
        files={
            "train.jsonl": lines([{"messages": [{"role": "user", "content": str(i)}]}
                                  for i in range(9)])
        },
    ),
    "a class that training does not have": Bad(
        "test.jsonl:2", "class 'godo' is not one of those learnt ('bad', 'good')", "Correct",
        ON_FILE, {"test.jsonl": lines([{"text": "Hm, yes", "label": "good"},
                                       {"text": "Oh well", "label": "godo"}])}, model="bert",
    ),
    "a class that the recipe does not list": Bad(
        None, "class 'bad', which `task.labels` does not list", "Add it",
        OF_CLASSES | {"task": "{name: classification, labels: [good, fine]}"}, model="bert",
    ),
    "a CoNLL line without a tag": Bad(
        "train.conll:2", "Line 2 holds 'wrote' alone, expected a word and its tag", "Each line",
        OF_TAGS, {"train.conll": "Ada B-PER\nwrote\n"}, model="bert",
    ),
    "a tag that cannot follow": Bad(
        "train.conll", "(train.conll:1): tags[1]: found the text 'I-PER', expected 'B-PER'",
        "One record", OF_TAGS, {"train.conll": "the O\nAda I-PER\n"}, model="bert",
    ),
    "a span that cuts a word": Bad(
        "train.jsonl", "found the text 'Ad', expected whole words: 'Ada', from 0 to 3", "One",
        {"task": "tagging"},
        {"train.jsonl": lines([{"text": "Ada wrote", "entities": [[0, 2, "PER"]]}] * 5)},
        model="bert",
    ),
    "a label that training does not have": Bad(
        "test.conll:1", "The label 'LOC' is not one of those learnt ('PER')", "Correct",
        OF_TAGS | {"data": "{train: train.conll, test: test.conll}"},
        {"train.conll": "Ada B-PER\nwrote O\n", "test.conll": "Rome B-LOC\n\nfell O\n"},
        model="bert",
    ),
    "an answer that stands elsewhere": Bad(
        "train.jsonl", "found 2 (a number), expected the place of 'Ada' in the context: it stands "
        "at 0", "One record", {"task": "extraction"},
        {"train.jsonl": lines([{"context": "Ada wrote", "question": "Who?",
                                "answers": {"text": ["Ada"], "answer_start": [2]}}] * 5)},
        model="bert",
    ),
    "a family whose head reads other names": Bad(
        None, "calls the body by another name than its files do", "Choose an encoder",
        {"task": "extraction"},
        {"train.jsonl": lines([{"context": f"Ada wrote {i}", "question": "Who?",
                                "answers": {"text": ["Ada"], "answer_start": [0]}}
                               for i in range(9)])},
    ),
    "pairs with and without negatives": Bad(
        "data.train", "Training records have 0 to 1 negatives", "the same number of negatives",
        {"task": "embedding"},
        {"train.jsonl": lines([{"anchor": f"a {i}", "positive": f"b {i}",
                                "negatives": ["c"] * (i % 2)} for i in range(9)])},
        model="bert",
    ),
    "a step larger than a pass": Bad(
        "training.tokens_per_batch", "'in_batch_negatives' compares all records of a step, but",
        "Raise it to", {"task": "embedding", "training": "{max_steps: 2, tokens_per_batch: 20}"},
        {"train.jsonl": lines([{"anchor": f"a {i}", "positive": f"b {i}"} for i in range(9)])},
        model="bert",
    ),
    "nothing tagged": Bad(
        "data.train", "No training record has an entity", "something is tagged",
        OF_TAGS, {"train.conll": "Ada O\n\nwrote O\n\na O\n\nb O\n\nbook O\n"}, model="bert",
    ),
    "repurpose for tagging": Bad(
        "technique", "'repurpose' does not suit the task 'tagging': it fits a linear map", "",
        OF_TAGS | {"technique": "repurpose"},
        {"train.conll": "".join(f"Ada B-PER\n{i} O\n\n" for i in range(10))}, model="bert",
    ),
    "one class only": Bad(
        "data.train", "one class only (all are 'good')", "at least two classes",
        OF_CLASSES, {"class.jsonl": lines(CLASSES[::2])}, model="bert",
    ),
    "test set inside train set": Bad(
        "data.test", "whole test set also stands in train (5 of 5; test.jsonl:1 = train.jsonl:1",
        "Give records of its own", {"data": "{train: train.jsonl, test: test.jsonl}"},
        {"test.jsonl": lines(ANSWERS[:5])},
    ),
    "one test record": Bad(
        "data.test", "The test set has 1 record", "Give more records",
        files={"train.jsonl": lines(ANSWERS[:5])},
    ),
    "one record": Bad(
        "data.test", "share of 0.2 of 1 records is not one record", "Give more records",
        files={"train.jsonl": lines(ANSWERS[:1])},
    ),
    "pieces that hold nothing new": Bad(
        "task.overlap", "Pieces of 4 tokens of which 8 are repeated", "Lower it",
        OF_TEXTS | {"task": "{name: language_modeling, max_length: 4, overlap: 8}"},
    ),
}  # fmt: skip

MODELS = {
    "catalogue name misspelt": Bad(
        None, "no model called 'smollm2-135m-instrct'", "Did you mean 'smollm2-135m-instruct'?",
        {"model": "smollm2-135m-instrct"},
    ),
    "hub id that cannot be had": Bad(
        None, "some/model is not on this machine, and the hub cannot be reached", "the network",
        {"model": "some/model"},
    ),
    "model folder missing": Bad(
        "recipe.yaml:1: model", "no model at './tiny-lama'", "Did you mean 'tiny-llama'?",
        {"model": "./tiny-lama"}, {"tiny-llama/config.json": "{}"},
    ),
    "folder without a configuration": Bad(
        "empty", "no config.json", "save_pretrained", {"model": "./empty"}, {"empty/README": "x"}
    ),
    "an adapter alone": Bad(
        "adapter", "is an adapter, not a whole model", "Give its base model",
        {"model": "./adapter"}, {"adapter/adapter_config.json": "{}"},
    ),
    "an image model": Bad(
        None, "is an image model (resnet). This task learns to write text", "Choose a decoder",
        {"model": "./resnet"},
        {"resnet/config.json": '{"model_type": "resnet"}', "resnet/model.safetensors": "x"},
    ),
    "an image model to classify texts": Bad(
        None, "is an image model (resnet). This task reads a text", "an encoder such as minilm-l6",
        OF_CLASSES | {"model": "./resnet"},
        {"resnet/config.json": '{"model_type": "resnet"}', "resnet/model.safetensors": "x"},
    ),
    "a GGUF file that is none": Bad(
        "a.gguf", "not a GGUF file", "Git LFS", {"model": "a.gguf"}, {"a.gguf": "version 1"}
    ),
    "a GGUF file cut short": Bad(
        "a.gguf", "This GGUF file cannot be read", "or the original model",
        {"model": "a.gguf"}, {"a.gguf": "GGUF\3\0\0\0"},
    ),
    "encoder for instruct": Bad(
        None, "is an encoder (bert): it reads text and writes none", "Choose a decoder",
        model="bert",
    ),
    "encoder for language modelling": Bad(
        None, "is an encoder (bert): it reads text and writes none", "Choose a decoder",
        OF_TEXTS, model="bert",
    ),
    "repurpose for instruct": Bad(
        "technique", "'repurpose' does not suit the task 'instruct'", "",
        {"technique": "repurpose"},
    ),
    "LoRA target misspelt": Bad(
        "technique.targets", "no linear map called 'q_porj'", "Did you mean 'q_proj'?",
        {"technique": "{name: lora, targets: [q_porj]}"},
    ),
    "LoRA target of another family": Bad(
        "technique.targets", "no linear map called 'query'", "Known: down_proj, gate_proj, k_proj",
        {"technique": "{name: lora, targets: [query]}"},
    ),
    "more layers than there are": Bad(
        "technique.last", "The last 5 layers are to learn, but the model has 2", "Give 1 to 2",
        {"technique": "{name: layers, last: 5}"},
    ),
    "vocabulary layer of a classifier": Bad(
        "technique.output", "no vocabulary layer", "Leave `output` out",
        OF_CLASSES | {"technique": "{name: layers, output: true}"}, model="bert",
    ),
    "metric misspelt": Bad(
        "evaluation.metric", "no metric 'log_likelyhood'", "Did you mean 'log_likelihood'?",
        {"evaluation": "{metric: log_likelyhood}"},
    ),
    "metric of another task": Bad(
        "evaluation.metric", "no metric 'accuracy'", "Known: exact_match, log_likelihood",
        {"evaluation": "{metric: accuracy}"},
    ),
    "metric of answers that are not generated": Bad(
        "evaluation.generate", "'rouge_l', which decides, is measured on generated answers",
        "Raise it", {"evaluation": "{metric: rouge_l, generate: 0}"},
    ),
    "objective of another task that reads the same": Bad(
        "objective", "'spans' learns a part of a text, but the task 'tagging' gives a class of",
        "Leave it out, or choose 'token_classes'",
        {"task": "tagging", "objective": "spans"}, {"train.jsonl": lines(TAGGED)}, model="bert",
    ),
    "objective of another task": Bad(
        "objective", "'classes' reads Pooled", "Leave it out, or choose 'token_likelihood'",
        {"objective": "classes"},
    ),
    "template that is no Jinja": Bad(
        None, "chat template (given) cannot be learnt with", "another template",
        {"task": '{name: instruct, template: "{% for m in"}'},
    ),
    "template that drops the messages": Bad(
        None, "does not write each message once", "another template",
        {"task": "{name: instruct, template: hello}"},
    ),
}  # fmt: skip

TABLE = RECIPES | FILES | RECORDS | MODELS


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file under a folder, and every folder as an empty one."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def lay_out(here: Path, bad: Bad, tiny: Callable[[str], Path]) -> None:
    """Write the recipe and the files of a row into the current folder."""
    sections = {"model": tiny(bad.model), **bad.sections}
    usual = {
        "train.jsonl": lines(ANSWERS),
        "class.jsonl": lines(CLASSES),
        "texts.jsonl": lines(TEXTS),
        "recipe.yaml": recipe(**sections) if bad.text is None else bad.text,
    }
    for name, content in (usual | dict(bad.files)).items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def assert_refused(command: Callable, here: Path, bad: Bad) -> None:
    """`check` and `train --json` both say what is wrong, and leave everything as it was."""
    before = contents(here)
    checked = command("check", "recipe.yaml", *bad.options)
    trained = command("train", "recipe.yaml", *bad.options, "--json")
    assert contents(here) == before

    assert (checked.code, trained.code) == (2, 2), checked.err + trained.err
    error = ErrorDocument.model_validate_json(trained.out).error
    place = None if error.where is None else error.where.replace(f"{here}/", "")
    assert place == bad.where
    assert bad.what in error.what
    assert bad.fix in (error.fix or "")

    assert checked.out == ""
    [message] = [line for line in checked.err.splitlines() if line.startswith("error: ")]
    parts = (f"{error.where}:" if error.where else "", error.what, error.fix or "")
    assert message == " ".join(["error:", *filter(None, parts)])
    for said in (checked.err, trained.err):
        assert "Traceback" not in said
        assert "Warning" not in said


@pytest.mark.parametrize("name", TABLE)
def test_a_bad_input_is_refused_with_its_place_and_leaves_nothing(
    name: str, here: Path, command: Callable, tiny: Callable[[str], Path]
) -> None:
    lay_out(here, TABLE[name], tiny)
    assert_refused(command, here, TABLE[name])


def _cut_in_half(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.0.self_attn.q_proj.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _with_a_weight_that_is_no_number(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


DAMAGES: dict[str, tuple[Callable[[Path], None], Bad]] = {
    "weights missing": (
        lambda folder: (folder / "model.safetensors").unlink(),
        Bad("model", "There are no weights in this folder", "save_pretrained"),
    ),
    "weights cut short": (_cut_in_half, Bad("model", "cannot be loaded", "Fetch or save")),
    "one weight missing": (
        _without_a_weight,
        Bad("model", "such as model.layers.0.self_attn.q_proj.weight", "Fetch or save"),
    ),
    "one weight is no number": (
        _with_a_weight_that_is_no_number,
        Bad("model", "not all finite numbers: model.layers.0.self_attn.q_proj", "Fetch the model"),
    ),
    "tokenizer missing": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        Bad("model", "tokenizer of", "needs the tokenizer's files"),
    ),
    "configuration broken": (
        lambda folder: (folder / "config.json").write_text("{") and None,
        Bad("model/config.json", "configuration cannot be read", "Fetch or save the model again"),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_model_is_refused_with_its_place_and_leaves_nothing(
    name: str, here: Path, command: Callable, tiny: Callable[[str], Path]
) -> None:
    damage, bad = DAMAGES[name]
    lay_out(here, Bad(None, "", "", {"model": "./model"}), tiny)
    shutil.copytree(tiny("llama"), here / "model")
    damage(here / "model")
    assert_refused(command, here, bad)


@pytest.mark.parametrize(
    ("given", "where", "fix"),
    [
        ("recipy.yaml", "recipy.yaml", "Did you mean 'recipe.yaml'?"),
        ("sub", "sub", "Did you mean 'sub/other.yaml'?"),
    ],
)
def test_a_recipe_that_is_not_there_suggests_the_nearest(here, command, given, where, fix) -> None:
    (here / "recipe.yaml").write_text("model: x\n")
    (here / "sub").mkdir()
    (here / "sub" / "other.yaml").write_text("model: x\n")
    said = command("check", given, "--json")
    assert said.code == 2
    assert said.document["error"]["where"] == where
    assert said.document["error"]["fix"] == fix


def test_several_wrong_options_are_told_at_once(here, command, tiny) -> None:
    lay_out(here, Bad(None, "", "", {"training": "{max_steps: 0, sed: 1}"}), tiny)
    error = command("check", "recipe.yaml", "--json").document["error"]["what"]
    assert "2 things are wrong" in error
    assert "recipe.yaml:5: training.max_steps: Must be greater" in error
    assert "recipe.yaml:5: training.sed: There is no option 'sed' here. Did you mean" in error


@pytest.mark.parametrize("arguments", [("check", "recipe.yaml"), ("train", "recipe.yaml")])
def test_a_record_longer_than_the_context_is_cut_and_named(here, command, tiny, arguments) -> None:
    rows = third(prompt="word " * 200, completion="short")
    lay_out(here, Bad(None, "", "", files={"train.jsonl": rows}), tiny)
    said = command(*arguments)
    assert said.code == 0
    [warning] = [line for line in said.err.splitlines() if "were cut to fit" in line]
    assert warning.startswith("warning: 1 of 20 train records were cut to fit (left): ")
    assert "0 of them to be learnt (train.jsonl:3)" in warning


def test_an_answer_longer_than_the_context_is_cut_and_named(here, command, tiny) -> None:
    rows = third(prompt="short", completion="word " * 200)
    lay_out(here, Bad(None, "", "", files={"train.jsonl": rows}), tiny)
    [cut] = command("check", "recipe.yaml", "--json").document["cut"]
    assert cut["origin"] == "train.jsonl:3"
    tokens, learnt = (int(word) for word in cut["reason"].split() if word.isdigit())
    assert tokens > learnt > 800


def test_check_writes_nothing(here, command, tiny) -> None:
    lay_out(here, Bad(None, "", ""), tiny)
    before = contents(here)
    assert command("check", "recipe.yaml", "--show", "2").code == 0
    assert contents(here) == before


def test_an_error_document_is_all_of_standard_output_and_plain_json(here, command) -> None:
    said = command("check", "nothing.yaml", "--json")
    assert set(json.loads(said.out)) == {"schema_version", "error", "exit_code"}
    assert said.err == ""
