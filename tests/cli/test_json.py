"""With `--json`, standard output holds exactly one document, of the shape that is promised."""

from __future__ import annotations

import io

import pytest

from tunesmith.cli.contracts import DOCUMENTS
from tunesmith.errors import DataError, RunError

PROMISED = {
    "run",
    "verdict",
    "metric",
    "before",
    "after",
    "difference",
    "interval",
    "detectable",
    "tokens",
    "seconds",
    "tokens_per_second",
    "waited",
    "trainable_parameters",
    "peak_memory_bytes",
    "schema_version",
}

COMMANDS = {
    "init": ("init", "new"),
    "models list": ("models",),
    "check": ("check", "r.yaml", "--show", "1"),
    "clean": ("clean", "a.jsonl", "--out", "b.jsonl"),
    "plan": ("plan", "r.yaml"),
    "train": ("train", "r.yaml"),
    "evaluate": ("evaluate", "demo-1"),
    "predict": ("predict", "demo-1", "text"),
    "chat": ("chat", "demo-1", "--compare"),
    "bench hardware": ("bench", "hardware"),
    "recipe schema": ("recipe", "schema"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_standard_output_is_one_document_whatever_libraries_print(
    api, command, monkeypatch, name
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    said = command(*COMMANDS[name], "--json")
    assert said.code == 0
    document = DOCUMENTS[name].model_validate(said.document)
    assert document.schema_version == 1
    if api.calls:
        assert "a library prints" in said.err
        assert "a C library prints" in said.err


@pytest.mark.parametrize("arguments", [("train", "r.yaml"), ("evaluate", "demo-1")])
def test_train_and_evaluate_have_the_promised_fields(api, command, arguments) -> None:
    document = command(*arguments, "--json").document
    assert set(document) >= PROMISED
    assert document["interval"] == [0.5, 1.5]
    assert document["verdict"] == "improved"
    assert document["tokens"] == 12345


def test_a_figure_that_is_not_finite_is_null(api, command) -> None:
    api.run.summary = {**api.run.summary, "tokens_per_second": float("nan")}
    assert command("train", "r.yaml", "--json").document["tokens_per_second"] is None


def test_chat_answers_the_lines_of_standard_input(api, command, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nagain\n"))
    turns = command("chat", "demo-1", "--json").document["turns"]
    assert turns[0] == {"user": "hello", "tuned": "tuned: 1 hello", "base": None}
    assert turns[1]["tuned"] == "tuned: 3 again"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("Broken.", where="a.jsonl:3", fix="Mend it."), 2),
        (RunError("Broken.", where="a.jsonl:3", fix="Mend it."), 1),
    ],
)
def test_an_error_is_one_document_too(api, command, error, code) -> None:
    api.fails = error
    said = command("train", "r.yaml", "--json")
    assert said.code == code
    assert said.document == {
        "schema_version": 1,
        "error": {"what": "Broken.", "where": "a.jsonl:3", "fix": "Mend it."},
        "exit_code": code,
    }


def test_a_wrong_command_line_is_one_document_too(command) -> None:
    said = command("train", "--json", "--resum", "x")
    assert said.code == 2
    assert "--resume" in said.document["error"]["what"]


def test_an_error_of_a_recipe_is_one_document_with_its_place(command, tmp_path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: m\ntask: instruct\ndata: {trian: x}\n")
    error = command("recipe", "show", str(path), "--json").document["error"]
    assert "Did you mean 'train'?" in error["what"]
