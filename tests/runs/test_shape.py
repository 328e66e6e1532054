"""What a recipe would take with a model of which only the configuration is here."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.acceptance.jobs import ANSWERS, CLASSES, TEXTS, lines
from tests.tiny import tiny_model_folder
from transformers import OPTConfig

from tunesmith.console import Console
from tunesmith.engine.checkpointing import Checkpointed
from tunesmith.errors import RecipeError
from tunesmith.models.load import load_model
from tunesmith.models.quantised import Quantised
from tunesmith.models.resolve import Resolved, resolve, shape_of
from tunesmith.models.shape import Shaped
from tunesmith.recipes.load import parse_recipe
from tunesmith.runs.plan import plan_technique, plan_training
from tunesmith.runs.prepare import Prepared, prepare
from tunesmith.runs.roofline import meter_of
from tunesmith.runs.shape import memory_of
from tunesmith.training.memory import MemoryEstimate, largest_micro_batch, resident_bytes

SILENT = Console(quiet=True)
BIG = {
    "hidden_size": 4096, "num_hidden_layers": 32, "ffn_dim": 16384, "num_attention_heads": 32,
    "word_embed_proj_dim": 4096, "vocab_size": 50272, "max_position_embeddings": 2048,
}  # fmt: skip


def recipe(tmp_path: Path, folder: Path, **more: Any) -> dict[str, Any]:
    task = "classification" if "bert" in folder.name else "instruct"
    rows = CLASSES if task == "classification" else ANSWERS
    (tmp_path / "train.jsonl").write_text(lines(rows))
    return {
        "model": str(folder),
        "task": task,
        "data": {"train": str(tmp_path / "train.jsonl")},
        "technique": {"name": "lora", "rank": 2},
        "training": {"max_steps": 4, "batch_size": 4, "precision": "float32"},
        "evaluation": {"generate": 2, "probe": False},
        **more,
    }


def without_weights(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))
    return to


def estimate(prepared: Prepared) -> MemoryEstimate:
    plan = prepared.plan()
    batch = largest_micro_batch(plan, prepared.engine)
    prepared.engine.checkpoints.choose(Checkpointed())
    return memory_of(prepared.engine, plan).estimate(batch, Checkpointed())


@pytest.mark.parametrize("technique", [{"name": "lora", "rank": 2}, "full"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_a_shape_takes_what_the_model_takes(tmp_path: Path, family: str, technique: Any) -> None:
    whole = tiny_model_folder(tmp_path, family)
    given = recipe(tmp_path, whole, technique=technique)
    bare = without_weights(whole, tmp_path / f"bare-{family}")
    shape = shape_of(str(bare), SILENT)
    assert shape is not None
    real = estimate(prepare(parse_recipe(given), SILENT))
    planned = estimate(prepare(parse_recipe({**given, "model": str(bare)}), SILENT, shape=shape))
    for part in ("weights", "gradients", "optimizer", "activations", "temporary"):
        assert getattr(planned, part) == pytest.approx(getattr(real, part), rel=0.03), part


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_base_is_counted_at_its_bytes(tmp_path: Path, kind: Any) -> None:
    whole = tiny_model_folder(tmp_path, "llama", hidden_size=128, intermediate_size=384)
    given = recipe(tmp_path, whole, base={"quantize": kind})
    bare = without_weights(whole, tmp_path / "bare")
    real = estimate(prepare(parse_recipe(given), SILENT))
    shape = shape_of(str(bare), SILENT)
    planned = estimate(prepare(parse_recipe({**given, "model": str(bare)}), SILENT, shape=shape))
    assert planned.weights == pytest.approx(real.weights, rel=0.04)  # tables of each map


def test_no_weights_are_made_of_a_large_model(tmp_path: Path) -> None:
    OPTConfig(architectures=["OPTForCausalLM"], **BIG).save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path), SILENT)
    before = resident_bytes()
    model = load_model(shape, head="causal_lm", quantised=Quantised("int8"))
    assert resident_bytes() - before < 2e8
    assert model.parameters == 6_658_473_984
    weight: Any = model.module.get_input_embeddings().weight
    assert isinstance(weight, Shaped)
    assert weight is model.output_weight_VD
    ids = torch.arange(8)[None]
    with torch.no_grad():
        logits = model.module(input_ids=ids).logits
    assert logits.shape == (1, 8, 50272)
    assert len(model.tokenizer("to be or not to be")["input_ids"]) == 5  # four characters each


def test_a_configuration_alone_is_planned(tmp_path: Path) -> None:
    whole = tiny_model_folder(tmp_path, "llama")
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(whole / "config.json", bare)
    (tmp_path / "texts.jsonl").write_text(lines(TEXTS))
    given = recipe(tmp_path, bare, task="language_modeling")
    given["data"] = {"train": str(tmp_path / "texts.jsonl")}
    found = plan_training(given, techniques=["lora"], console=SILENT)
    assert (found.weights, found.tokenizer) == (False, False)
    (lora,) = found.techniques
    assert lora.refused is None
    assert 0 < lora.memory["weights"] < 10**6
    assert sorted(path.name for path in bare.iterdir()) == ["config.json"]


def test_time_is_what_the_products_take_at_the_measured_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = without_weights(tiny_model_folder(tmp_path, "llama"), tmp_path / "bare")
    shape = shape_of(str(bare), SILENT)
    prepared = prepare(parse_recipe(recipe(tmp_path, bare)), SILENT, shape=shape)
    brief = meter_of(prepared.engine, {})
    assert brief is not None
    brief = replace(brief, roof=replace(brief.roof, source="brief"))
    monkeypatch.setattr("tunesmith.runs.plan.meter_of", lambda *given: brief)
    assert plan_technique(prepared).seconds is None
    meter = replace(brief, roof=replace(brief.roof, source="kept", flops_per_second=1e9))
    monkeypatch.setattr("tunesmith.runs.plan.meter_of", lambda *given: meter)
    needed = sum(meter.flops(step) for step in prepared.plan())
    assert plan_technique(prepared).seconds == pytest.approx(needed / 1e9)


def test_weights_that_are_here_are_used(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path, "llama")
    assert shape_of(str(folder), SILENT) is None
    assert resolve(str(folder)).origin == "folder"


@pytest.mark.parametrize(
    "more",
    [
        {"surgery": [{"name": "drop", "layers": [0]}]},
        {"retain": [{"name": "l2_sp"}]},
        {"technique": {"name": "layers", "find": "gradient", "count": 1}},
        {"base": {"stream": True}},
    ],
)
def test_what_looks_at_weights_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    folder = tiny_model_folder(tmp_path, "llama")
    shape = Resolved("bare", folder, "shape", "")
    given = recipe(tmp_path, folder, **more)
    with pytest.raises(RecipeError, match="needs more than their shapes"):
        prepare(parse_recipe(given), SILENT, shape=shape)
