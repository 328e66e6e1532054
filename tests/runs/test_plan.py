"""What a recipe would take, technique by technique, without training or writing anything."""

from pathlib import Path

import pytest
from tests.acceptance.jobs import ANSWERS, lines
from tests.tiny import tiny_model_folder

from tunesmith.console import Console
from tunesmith.engine.checkpointing import Checkpointed
from tunesmith.errors import DataError, RecipeError
from tunesmith.recipes.load import parse_recipe
from tunesmith.runs.plan import HERE, plan_technique, plan_training, scaled
from tunesmith.runs.prepare import prepare
from tunesmith.training.memory import Memory, largest_micro_batch

SILENT = Console(quiet=True)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    (tmp_path / "train.jsonl").write_text(lines(ANSWERS))
    monkeypatch.chdir(tmp_path)
    return {
        "model": str(tiny_model_folder(tmp_path, "llama")),
        "task": {"name": "instruct", "max_new_tokens": 3},
        "data": {"train": "train.jsonl"},
        "technique": {"name": "lora", "rank": 2},
        "training": {"max_steps": 4, "batch_size": 4},
        "evaluation": {"generate": 0, "probe": False},
    }


def test_techniques_stand_side_by_side_and_one_that_cannot_says_why(recipe, tmp_path) -> None:
    before = sorted(tmp_path.rglob("*"))
    found = plan_training(recipe, techniques=["full", "repurpose"], console=SILENT)
    lora, full, repurpose = found.techniques
    assert (found.chosen, lora.technique, full.technique) == ("lora", "lora", "full")
    assert 0 < lora.trainable < full.trainable
    assert lora.memory["optimizer"] < full.memory["optimizer"]
    assert full.tokens_per_second == pytest.approx(found.tokens / full.seconds)
    assert [device.device for device in full.devices] == [HERE, "24 GB", "80 GB", "141 GB"]
    assert repurpose.refused
    assert sorted(tmp_path.rglob("*")) == before


def test_the_largest_micro_batch_fits_and_a_larger_one_does_not(recipe) -> None:
    prepared = prepare(parse_recipe(recipe), SILENT)
    batch = largest_micro_batch(prepared.plan(), prepared.engine)
    here, small, *_ = plan_technique(prepared).devices
    memory = Memory(prepared.engine)
    layers = len(prepared.engine.checkpoints.layers)
    for tokens, chosen in ((here.largest, 0), (here.largest_twice, layers)):
        assert tokens is not None
        peak = memory.estimate(scaled(batch, tokens), Checkpointed(chosen)).total
        assert peak <= here.capacity
        beyond = memory.estimate(scaled(batch, int(tokens * 1.02)), Checkpointed(chosen)).total
        assert beyond > here.capacity
    assert small.largest is not None
    assert small.peak < here.peak  # bfloat16, and no process beside it


def test_what_is_wrong_with_the_recipe_itself_is_an_error(recipe) -> None:
    Path("train.jsonl").write_text("")
    with pytest.raises(DataError) as refused:
        plan_training(recipe, techniques=["full"], console=SILENT)
    assert "train.jsonl" in str(refused.value)


def test_a_technique_that_is_not_there_is_refused_before_anything_is_loaded(recipe) -> None:
    with pytest.raises(RecipeError, match="lora"):
        plan_training(recipe, techniques=["lorra"], console=SILENT)
