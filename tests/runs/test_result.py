"""What is saved is what was learnt, or the run fails; what others may read otherwise is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.acceptance.jobs import ANSWERS, CLASSES, lines
from tests.tiny import tiny_model, tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.data.batch import Encoded, EncodedStream
from tunesmith.engine.engine import Engine
from tunesmith.errors import RunError
from tunesmith.models.seeded import seeded
from tunesmith.runs.result import adapter_effect
from tunesmith.tasks.instruct import Instruct
from tunesmith.techniques.base import PeftTechnique
from tunesmith.techniques.lora import Lora
from tunesmith.training.loop import Loop

SILENT = Console(quiet=True)
LOOKALIKE = {"prompt": "Say <|im_end|> lamp", "completion": "lamp"}


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., api.Run]:
    def run(rows: Any = ANSWERS, console: Console = SILENT, **technique: Any) -> api.Run:
        (tmp_path / "train.jsonl").write_text(lines(rows))
        recipe = {
            "model": str(tiny_model_folder(tmp_path, "llama")),
            "task": "instruct",
            "data": {"train": str(tmp_path / "train.jsonl")},
            "technique": {"name": "lora", "rank": 2, **technique},
            "training": {"max_steps": 2, "batch_size": 4, "learning_rate": 0.02},
            "evaluation": {"generate": 0, "probe": False, "resamples": 100},
        }
        return api.train(recipe, name="x", runs_dir=tmp_path / "runs", console=console)

    return run


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]) -> None:
    """Let something happen to what was saved, before it is read back."""
    stock = PeftTechnique.save

    def save(self: PeftTechnique, model: Any, folder: Path) -> None:
        stock(self, model, folder)
        change(folder)

    monkeypatch.setattr(PeftTechnique, "save", save)


def test_a_saved_model_that_answers_otherwise_fails_the_run(train, monkeypatch, tmp_path) -> None:
    def change(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        grown = {name: tensor * 30 for name, tensor in load_file(file).items()}
        save_file(grown, file, metadata={"format": "pt"})

    spoil(monkeypatch, change)
    with pytest.raises(RunError, match="The saved model answers differently from the trained one"):
        train()
    assert not (tmp_path / "runs/x/summary.json").exists()


def test_a_saved_model_that_would_be_asked_otherwise_fails_the_run(
    train, monkeypatch, tmp_path
) -> None:
    def change(folder: Path) -> None:
        file = folder / "chat_template.jinja"
        file.write_text(file.read_text() + "\n")

    spoil(monkeypatch, change)
    with pytest.raises(RunError, match="The saved chat template is not the one"):
        train()
    assert not (tmp_path / "runs/x/summary.json").exists()


def test_the_report_says_what_other_servers_may_take_for_control_tokens(train) -> None:
    run = train([*ANSWERS[:2], LOOKALIKE, *ANSWERS[2:], LOOKALIKE | {"prompt": "<|im_start|>a"}])
    [said] = [text for text in run.summary["data"]["warnings"] if "control token" in text]
    assert "records say the text of a control token" in said
    assert "`<|im_" in said
    assert "train.jsonl:" in said
    assert "other servers may take it for the token itself" in run.report.read_text()


def test_nothing_is_said_of_control_tokens_where_none_is_said(train) -> None:
    assert not any("control token" in text for text in train().summary["data"]["warnings"])


def test_the_stop_tokens_that_were_learnt_are_in_the_generation_settings(train) -> None:
    run = train()
    stops = json.loads((run.path / "model/generation_config.json").read_text())["eos_token_id"]
    run.engine()
    assert tuple(stops) == run.task.stop_ids


def test_all_is_measured_once_before_the_first_step_in_the_batches_of_afterwards(
    train, monkeypatch
) -> None:
    """What evaluation takes is known then, and no difference is one of batches."""
    shapes: list[list[tuple[int, ...]]] = []
    stock_measure, stock_step = Instruct.measure, Loop._step

    def measure(self: Instruct, engine: Any, *arguments: Any, **options: Any) -> Any:
        shapes.append([])
        return stock_measure(self, engine, *arguments, **options)

    def forward(self: Engine, batch: Any, *arguments: Any, **options: Any) -> Any:
        if shapes:
            shapes[-1].append(tuple(batch.text.lengths))
        return stock_forward(self, batch, *arguments, **options)

    def step(self: Loop, *arguments: Any) -> None:
        steps.append(len(shapes))
        stock_step(self, *arguments)

    steps: list[int] = []
    stock_forward = Engine.forward
    monkeypatch.setattr(Instruct, "measure", measure)
    monkeypatch.setattr(Engine, "forward", forward)
    monkeypatch.setattr(Loop, "_step", step)
    train()
    before, *noise, after = shapes
    assert before
    assert after[: len(before)] == before
    assert steps == [1 + len(noise)] * 2


def test_how_far_the_adapter_moves_the_model_is_said(train, capsys) -> None:
    train(console=Console())
    said = " ".join(capsys.readouterr().err.split())
    assert "The adapter moves what the model makes of a test record by 0." in said


def test_an_adapter_without_effect_is_a_warning_in_the_report(train, monkeypatch) -> None:
    monkeypatch.setattr("tunesmith.runs.result.adapter_effect", lambda *_: 0.0)
    [said] = [text for text in train().summary["data"]["warnings"] if "adapter" in text]
    assert said.startswith("The adapter changes nothing of what the model makes of a test record")


@pytest.mark.parametrize(
    "changing", [{"initial": "pissa"}, {"bias": "all"}], ids=["principal part", "biases"]
)
def test_where_the_base_was_changed_beside_the_adapter_no_effect_is_said(
    train, capsys, monkeypatch, changing
) -> None:
    """To switch the adapter off does not bring back the base as it was."""
    monkeypatch.setattr("tunesmith.runs.result.adapter_effect", lambda *_: 0.0)
    run = train(console=Console(), **changing)
    assert "The adapter" not in capsys.readouterr().err
    assert not [text for text in run.summary["data"]["warnings"] if "adapter" in text]


def test_an_effect_that_is_no_number_is_not_taken_for_none(train, monkeypatch) -> None:
    monkeypatch.setattr("tunesmith.runs.result.adapter_effect", lambda *_: float("nan"))
    assert not [text for text in train().summary["data"]["warnings"] if "adapter" in text]


def test_what_its_reader_cannot_try_is_written_but_not_verified(
    tmp_path, monkeypatch, capsys
) -> None:
    """A classifier of stock features is read by sentence-transformers, which need not be here."""
    (tmp_path / "train.jsonl").write_text(lines(CLASSES))
    recipe = {
        "model": str(tiny_model_folder(tmp_path, "bert")),
        "task": "classification",
        "data": {"train": str(tmp_path / "train.jsonl")},
        "technique": "repurpose",
        "evaluation": {"probe": False, "resamples": 100},
    }
    monkeypatch.setattr("tunesmith.models.saving.find_spec", lambda name: None)
    run = api.train(recipe, name="x", runs_dir=tmp_path / "runs", console=Console())
    said = " ".join(capsys.readouterr().err.split())
    assert "was written, not verified: its reader is not installed" in said
    assert run.verdict in ("improved", "no evidence", "worse")


def test_the_effect_of_an_adapter_is_that_of_switching_it_off() -> None:
    model = tiny_model("llama")
    lora = Lora(Lora.Options(rank=2))
    with seeded(0):
        lora.prepare(model)
    engine = Engine(model, lora.parameter_groups(model))
    example = Encoded({"text": EncodedStream(tuple(range(10, 20)))})
    assert adapter_effect(engine, example) == 0.0
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(0.1)
    assert adapter_effect(engine, example) > 0.001
