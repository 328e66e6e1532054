"""Every task goes on exactly: weights, head and all, and figures are those of a run never stopped.

LoRA with dropout beside a head that learns whole, on a model that drops, validated on the way. What
is killed, and at any moment, is shown in `test_resume.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.acceptance.jobs import lines, recipe
from tests.acceptance.test_matrix import ROWS, TASK
from tests.tiny import tiny_model_folder

from tunesmith.registry import TASKS
from tunesmith.training.loop import Loop

FAMILY = {
    "instruct": "llama", "language_modeling": "gpt2", "seq2seq": "t5",
    "masked_language_modeling": "masked-bert",
}  # fmt: skip
TRAINING = (
    "{max_steps: 6, batch_size: 4, tokens_per_batch: 1000, learning_rate: 0.02,"
    " checkpoint_every: 2, validate_every: 2, keep_best: true}"
)


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny model that drops at random, made once for each family."""
    folder = tmp_path_factory.mktemp("models")
    return cache(partial(tiny_model_folder, folder, dropout=0.1))


def tensors(run: Path) -> dict[str, Any]:
    files = sorted((run / "model").rglob("*.safetensors"))
    found = {f"{f.name}/{name}": tensor for f in files for name, tensor in load_file(f).items()}
    assert found
    return found


def test_every_task_has_records_here() -> None:
    assert {*ROWS, "multitask"} == set(TASKS.names())  # several at once: test_multitask.py


@pytest.mark.parametrize("task", ROWS)
def test_a_run_of_each_task_goes_on_as_if_never_stopped(
    here, command, dropping, monkeypatch, task
) -> None:
    (here / "train.jsonl").write_text(lines(ROWS[task]))
    (here / "recipe.yaml").write_text(
        recipe(
            model=dropping(FAMILY.get(task, "bert")),
            task=TASK.get(task, task),
            data="{train: train.jsonl, validation: 0.2}",
            technique="{name: lora, rank: 2, dropout: 0.2}",
            training=TRAINING,
        )
    )
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)
    assert command("train", "recipe.yaml", "--name", "whole").code == 0
    stock = Loop._step

    def step(self: Loop, *arguments: Any) -> None:
        if self.progress.step == 3:
            raise KeyboardInterrupt
        stock(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", step)
        assert command("train", "recipe.yaml", "--name", "stopped").code == 130
    again = command("train", "--resume", "stopped")
    assert again.code == 0, again.err
    assert "Going on after step 2" in again.err
    ours, theirs = tensors(here / "runs/stopped"), tensors(here / "runs/whole")
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    figures = [
        json.loads((here / "runs" / name / "evaluation/metrics.json").read_text())
        for name in ("stopped", "whole")
    ]
    assert figures[0] == figures[1]
