"""The snippets of a textbook's pipeline, as recipes: docs/how-to/textbook-recipes.md.

On tiny random models of the same architectures; what a recipe asks for is looked up in what it did.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from safetensors.torch import load_file
from tests.tiny import tiny_model_folder
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    DistilBertForSequenceClassification,
    OPTConfig,
)

from tunesmith import api
from tunesmith.console import Console
from tunesmith.engine.checkpointing import Checkpointed
from tunesmith.models.quiet import quiet
from tunesmith.recipes import parse_recipe
from tunesmith.runs.prepare import Prepared, prepare
from tunesmith.training.memory import Memory, largest_micro_batch

SILENT = Console(quiet=True)
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "textbook-recipes.md"
SHORT = {"evaluation": {"generate": 0, "probe": False, "resamples": 100}}
LABELS = ("negative", "neutral", "positive")
QUOTATIONS = [
    f"{who} says that {what} is {how}."
    for who in ("Abel", "Bert", "Cleo", "Dora", "Elsa")
    for what in ("work", "rain", "food", "rest")
    for how in ("good", "long")
]


def on_the_page(heading: str) -> dict[str, Any]:
    """The first recipe under a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1]
    block = re.search(r"```yaml\n(.*?)```", section, flags=re.DOTALL)
    assert block is not None
    recipe: dict[str, Any] = yaml.safe_load(block[1])
    return recipe


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def reviews(name: str) -> list[dict[str, Any]]:
    words = {"negative": "dull", "neutral": "plain", "positive": "grand"}
    return [
        {"text": f"{name}The film {i} was {words[label]}", "label": label}
        for i in range(8)
        for label in LABELS
    ]


def test_distilbert_gets_a_new_head_of_three_classes(tmp_path: Path) -> None:
    recipe = on_the_page("DistilBERT with a new head of three classes")
    recipe["model"] = str(tiny_model_folder(tmp_path, "distilbert"))
    recipe["data"]["train"] = written(tmp_path / "reviews.jsonl", reviews(""))
    recipe["training"]["epochs"] = 1
    run = api.train(recipe | SHORT, runs_dir=tmp_path, console=SILENT)
    found = AutoModelForSequenceClassification.from_pretrained(run.path / "model")
    assert isinstance(found, DistilBertForSequenceClassification)
    assert [found.config.id2label[i] for i in range(3)] == sorted(LABELS)
    assert run.summary["trainable_parameters"] == sum(p.numel() for p in found.parameters())


def test_gpt2_reads_the_instruction_before_the_text(tmp_path: Path) -> None:
    recipe = on_the_page("GPT-2 with the instruction before the text")
    recipe["model"] = str(tiny_model_folder(tmp_path, "gpt2"))
    instruction = "Tell what the writer thinks: "
    rows = reviews(instruction)
    recipe["data"]["train"] = written(tmp_path / "instructed.jsonl", rows)
    recipe["training"]["epochs"] = 1
    run = api.train(recipe | SHORT, runs_dir=tmp_path, console=SILENT)
    folder = run.path / "model"
    with torch.no_grad():
        found = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
        ids = AutoTokenizer.from_pretrained(folder)(rows[0]["text"], return_tensors="pt")
        theirs = sorted(LABELS)[int(found(**ids).logits.argmax())]
    (ours,) = run.predict([rows[0]["text"]])
    assert ours.text == theirs


def test_the_shape_of_a_large_opt_is_known_from_its_configuration(tmp_path: Path) -> None:
    shape = {
        "hidden_size": 4096,
        "word_embed_proj_dim": 4096,
        "ffn_dim": 16384,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "dtype": torch.float16,
    }
    OPTConfig(**shape, architectures=["OPTForCausalLM"]).save_pretrained(tmp_path)
    found = api.inspect(tmp_path).description
    assert found is not None
    assert found.parameters == 6_658_473_984
    assert found.bytes == 2 * found.parameters
    assert found.quantized_bytes["int8"] == pytest.approx(7.3e9, rel=0.01)
    assert found.quantized_bytes["nf4"] == pytest.approx(4.2e9, rel=0.01)


@pytest.fixture
def opt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The page's recipe on a tiny OPT, with so little memory that every layer is computed twice."""
    # What the process holds besides the model differs from one test run to the next.
    monkeypatch.setattr("tunesmith.training.memory.resident_bytes", lambda: 0)
    recipe = on_the_page("A 6.7B OPT in 8 bits, with LoRA on quotations")
    recipe["model"] = str(tiny_model_folder(tmp_path, "opt"))
    rows = [{"text": text} for text in QUOTATIONS]
    recipe["data"]["train"] = written(tmp_path / "quotations.jsonl", rows)
    del recipe["training"]["memory_gb"]
    (length,) = {example.length for example in _prepared(recipe).train.examples}
    recipe["training"]["tokens_per_batch"] = 4 * length
    whole = _prepared(recipe)
    memory = Memory(whole.engine)
    least = memory.estimate(largest_micro_batch(whole.plan(), whole.engine), Checkpointed(2))
    recipe["training"]["memory_gb"] = least.total / 1e9
    return recipe | SHORT


def _prepared(recipe: dict[str, Any]) -> Prepared:
    return prepare(parse_recipe(recipe | SHORT), SILENT)


def test_opt_in_8_bits_is_laid_out_as_the_textbook_says(opt: dict[str, Any]) -> None:
    found = _prepared(opt)
    plan = found.plan()
    assert len(plan) == 200
    assert {plan.passes(step) for step in range(len(plan))} == {4}
    assert {len(plan.indices(step)) for step in range(len(plan))} == {16}
    assert found.engine.checkpoints.chosen == Checkpointed(2)
    assert found.engine.dtype == torch.bfloat16
    config = found.model.peft.peft_config["default"]
    assert (config.r, config.target_modules) == (16, {"q_proj", "v_proj"})
    maps = [name for layer in found.model.anatomy.layers for name in layer.linears]
    weights = dict(found.model.module.named_parameters())
    stored = [n for n in weights if weights[n].dtype == torch.int8]
    assert len(stored) == len(maps)


def test_opt_in_8_bits_learns_quotations_and_peft_loads_it(
    opt: dict[str, Any], tmp_path: Path
) -> None:
    opt["training"] |= {"max_steps": 20, "learning_rate": 0.02}  # the whole takes minutes
    run = api.train(opt, runs_dir=tmp_path, console=SILENT)
    steps = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    rates = [step["learning_rate"] for step in steps]
    assert rates.index(max(rates)) in (9, 10)
    assert rates[:10] == sorted(rates[:10])
    assert steps[-1]["loss"] < 0.9 * steps[0]["loss"]
    saved = load_file(run.path / "model" / "adapter_model.safetensors")
    assert all(tensor.abs().max() > 0 for tensor in saved.values())
    with quiet():
        reader = AutoPeftModelForCausalLM.from_pretrained(
            run.path / "model", quantization_config=BitsAndBytesConfig(load_in_8bit=True)
        )
    assert {name.split(".")[-3] for name in saved} == {"q_proj", "v_proj"}
    assert reader.active_peft_config.r == 16
