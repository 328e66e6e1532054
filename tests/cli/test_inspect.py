"""`tunesmith inspect` on real folders: tree, picture, document, judgement, and bad arguments."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.tiny import LAYERS, tiny_model_folder
from transformers import AutoTokenizer, ResNetConfig

from tunesmith.cli.contracts.inspect import InspectDocument

Command = Callable[..., Any]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A tiny decoder with weights and tokenizer."""
    return tiny_model_folder(tmp_path)


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    """The configuration of a network for pictures, and nothing else."""
    folder = tmp_path / "resnet"
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    ResNetConfig(**sizes, architectures=["ResNetForImageClassification"]).save_pretrained(folder)
    return folder


def _document(command: Command, *arguments: str) -> dict[str, Any]:
    said = command("inspect", *arguments, "--json")
    assert said.code == 0, said.err
    InspectDocument.model_validate(said.document)
    read: dict[str, Any] = said.document
    return read


def _spoil(folder: Path, **changes: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    for file in (*folder.glob("tokenizer*"), *folder.glob("chat_template*")):
        file.unlink()
    tokenizer.save_pretrained(folder)


def test_the_tree_names_every_part(command: Command, llama: Path) -> None:
    said = command("inspect", str(llama))
    assert said.code == 0
    for words in ("LlamaForCausalLM", "model.embed_tokens", f"{LAYERS} layers", "grouped-query",
                  "inner size 48", "2 RMSNorm", "tokenizer", "<|im_end|>"):  # fmt: skip
        assert words in said.out
    assert "not on this machine" not in said.out


def test_the_configuration_alone_gives_the_same_tree(
    command: Command, llama: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(llama / "config.json", bare)
    whole, alone = _document(command, str(llama)), _document(command, str(bare))
    assert (whole["weights"], alone["weights"]) == (True, False)
    assert alone["description"] == whole["description"]
    assert alone["tokenizer"] is None
    said = command("inspect", str(bare)).out
    assert "Its weights are not on this machine" in said
    assert "It has no tokenizer" in said


def test_the_document_holds_parts_that_add_up(command: Command, llama: Path) -> None:
    found = _document(command, str(llama))["description"]
    pieces = [*found["parts"], *found["stacks"]]
    assert sum(piece["parameters"] for piece in pieces) == found["parameters"] > 0
    assert sum(piece["bytes"] for piece in pieces) == found["bytes"]


def test_the_document_stands_alone_whatever_libraries_print(
    command: Command, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith import api

    inspect = api.inspect

    def noisy(*given: Any, **options: Any) -> Any:
        os.write(1, b"a C library prints\n")
        return inspect(*given, **options)

    monkeypatch.setattr(api, "inspect", noisy)
    said = command("inspect", str(llama), "--json")
    assert said.document["schema_version"] == 1
    assert "a C library prints" in said.err


def test_the_picture_is_xml_that_names_the_layers(
    command: Command, llama: Path, tmp_path: Path
) -> None:
    odd = llama.rename(tmp_path / 'a <b> & "c"')
    file = tmp_path / "model.svg"
    said = command("inspect", str(odd), "--svg", str(file))
    assert said.code == 0
    assert f"Picture: {file}" in said.out.replace("\n", "")
    root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
    words = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words[0] == str(odd)
    for part in (f"decoder: {LAYERS} layers", "embedding", "attention", "feed-forward", "norms"):
        assert part in words


def test_a_picture_that_cannot_be_written_is_one_message(command: Command, llama: Path) -> None:
    file = llama / "nowhere" / "model.svg"
    said = command("inspect", str(llama), "--svg", str(file))
    assert said.code == 1
    assert said.err.count("error:") == 1
    assert "The picture cannot be written" in said.err


def test_a_typo_in_the_name_is_one_message(command: Command) -> None:
    said = command("inspect", "minilm-l7")
    assert (said.code, said.out) == (2, "")
    assert said.err.count("error:") == 1
    assert "Did you mean 'minilm-l6'?" in said.err
    assert "Traceback" not in said.err


def test_a_typo_in_the_task_is_one_message(command: Command, llama: Path) -> None:
    said = command("inspect", str(llama), "--task", "clasification")
    assert said.code == 2
    assert said.err.count("error:") == 1
    assert "Did you mean 'classification'?" in said.err


def test_data_want_a_task(command: Command, llama: Path) -> None:
    said = command("inspect", str(llama), "--data", "reviews.jsonl")
    assert said.code == 2
    assert "--task" in said.err


def test_data_that_are_not_there_are_named(command: Command, llama: Path) -> None:
    said = command("inspect", str(llama), "--task", "instruct", "--data", "absent.jsonl")
    assert said.code == 2
    assert "absent.jsonl" in said.err


def test_a_network_for_pictures_is_unfit_for_texts_and_says_why(
    command: Command, resnet: Path
) -> None:
    fit = _document(command, str(resnet), "--task", "classification")["fit"]
    assert (fit["task"], fit["verdict"]) == ("classification", "unfit")
    (reason,) = fit["reasons"]
    assert (reason["aspect"], reason["verdict"]) == ("architecture", "unfit")
    assert "resnet" in reason["what"]
    assert "encoder" in fit["better"]
    said = command("inspect", str(resnet), "--task", "classification").out
    assert "Unfit for classification." in said
    assert "Better: " in said


def test_a_decoder_is_fit_for_instructions(command: Command, llama: Path) -> None:
    fit = _document(command, str(llama), "--task", "instruct")["fit"]
    assert (fit["verdict"], fit["better"]) == ("fit", None)


def test_an_encoder_is_unfit_for_instructions(command: Command, tmp_path: Path) -> None:
    bert = tiny_model_folder(tmp_path, "bert")
    fit = _document(command, str(bert), "--task", "instruct")["fit"]
    assert fit["verdict"] == "unfit"
    assert "decoder" in fit["better"]


def test_records_of_one_class_want_a_change(command: Command, tmp_path: Path) -> None:
    bert, data = tiny_model_folder(tmp_path, "bert"), tmp_path / "data.jsonl"
    rows = [{"text": f"a plain English text, number {i}", "label": "good"} for i in range(30)]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = ("--task", "classification", "--data", str(data))
    fit = _document(command, str(bert), *task)["fit"]
    assert fit["verdict"] == "fit with changes"
    verdicts = {reason["aspect"]: reason["verdict"] for reason in fit["reasons"]}
    assert verdicts["labels"] == "fit with changes"
    assert verdicts["architecture"] == verdicts["modality"] == "fit"


def test_pictures_are_no_records_of_text(command: Command, llama: Path, tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "one.png").write_bytes(b"\x89PNG")
    task = ("--task", "instruct", "--data", str(tmp_path / "cats"))
    fit = _document(command, str(llama), *task)["fit"]
    assert fit["verdict"] == "unfit"
    assert "holds pictures" in fit["reasons"][-1]["what"]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"pad_token": None}, "no_pad_token", "There is no padding token."),
        ({"pad_token": "<|im_end|>"}, "pad_is_end", "Padding and end are the same token"),
        ({"chat_template": None}, "no_chat_template", "It has no chat template"),
    ],
)
def test_hazards_of_the_tokenizer_are_named(
    command: Command, llama: Path, changes: dict[str, Any], code: str, words: str
) -> None:
    _spoil(llama, **changes)
    assert code in [hazard["code"] for hazard in _document(command, str(llama))["hazards"]]
    said = command("inspect", str(llama))
    assert words in said.out
    assert said.code == 0


def test_a_missing_chat_template_counts_for_instructions_alone(
    command: Command, llama: Path
) -> None:
    _spoil(llama, chat_template=None)
    verdicts = {
        task: _document(command, str(llama), "--task", task)["fit"]["verdict"]
        for task in ("instruct", "classification")
    }
    assert verdicts == {"instruct": "fit with changes", "classification": "fit"}
