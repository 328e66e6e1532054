"""A finished run is used as it was measured: in its number format, packed or padded as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.acceptance.jobs import ANSWERS, CLASSES, lines
from tests.tiny import tiny_model_folder

from tunesmith import api
from tunesmith.console import Console

SILENT = Console(quiet=True)
EVALUATION = {"generate": 0, "probe": False, "resamples": 100}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., api.Run]:
    """Train on a tiny model, once for each technique and number format."""
    folder = tmp_path_factory.mktemp("use")
    (folder / "train.jsonl").write_text(lines(ANSWERS))
    (folder / "class.jsonl").write_text(lines(CLASSES))
    made: dict[str, api.Run] = {}

    def train(family: str, task: str, technique: Any, **training: Any) -> api.Run:
        name = "-".join([task, technique if isinstance(technique, str) else technique["name"],
                         *map(str, training.values())])  # fmt: skip
        if name not in made:
            data = "train.jsonl" if task == "instruct" else "class.jsonl"
            recipe = {
                "model": str(tiny_model_folder(folder, family)),
                "task": {"name": task},
                "data": {"train": str(folder / data)},
                "technique": technique,
                "training": {"max_steps": 2, "batch_size": 4, **training},
                "evaluation": EVALUATION,
            }
            made[name] = api.train(recipe, name=name, runs_dir=folder / "runs", console=SILENT)
        return api.open_run(made[name].path)

    return train


JOBS = [
    ("llama", "instruct", {"name": "lora", "rank": 2}),
    ("llama", "instruct", "full"),
    ("llama", "instruct", "layers"),
    ("bert", "classification", {"name": "lora", "rank": 2}),
    ("bert", "classification", "repurpose"),
]


@pytest.mark.parametrize(("family", "task", "technique"), JOBS)
def test_a_run_in_bfloat16_is_used_and_measured_again_in_bfloat16(
    trained, family: str, task: str, technique: Any
) -> None:
    run = trained(family, task, technique, precision="bfloat16")
    assert run.engine().dtype == torch.bfloat16
    again = api.evaluate(run, console=SILENT)
    for name, row in run.metrics["metrics"].items():
        for when in ("before", "after"):
            assert again.metrics["metrics"][name][when] == pytest.approx(
                row[when], abs=2e-3, rel=2e-3
            )


def test_what_was_learnt_whole_is_held_in_float32(trained) -> None:
    engine = trained("llama", "instruct", "full", precision="bfloat16").engine()
    assert {parameter.dtype for parameter in engine.model.module.parameters()} == {torch.float32}


def test_the_base_of_an_adapter_is_held_as_it_was(trained) -> None:
    engine = trained(
        "llama", "instruct", {"name": "lora", "rank": 2}, precision="bfloat16"
    ).engine()
    dtypes = {name: p.dtype for name, p in engine.model.module.named_parameters()}
    assert {d for name, d in dtypes.items() if "lora_" in name} == {torch.float32}
    assert {d for name, d in dtypes.items() if "lora_" not in name} == {torch.bfloat16}


@pytest.mark.parametrize("who", ["tuned", "base"])
def test_a_run_in_padded_batches_is_used_in_padded_batches(trained, who: Any) -> None:
    technique = {"name": "lora", "rank": 2}
    padded = trained("llama", "instruct", technique, precision="float32", packing=False)
    assert not padded.engine(who).packed
    assert padded.engine(who).dtype == torch.float32
    packed = trained("llama", "instruct", technique, precision="bfloat16")
    assert packed.engine(who).packed
    assert packed.engine(who).dtype == torch.bfloat16
