"""Training fits the memory it may take, or says why not, and goes on with the same choice."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.jobs import ANSWERS, lines
from tests.interrupting import state, train_and_kill
from tests.tiny import LAYERS, tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.engine.engine import Engine
from tunesmith.errors import RecipeError
from tunesmith.recipes.load import load_recipe, parse_recipe
from tunesmith.runs import memory_budget
from tunesmith.runs.prepare import Prepared, prepare

SILENT = Console(quiet=True)
LEAN = {
    "8 bits": {"optimizer": "adamw_8bit"},
    "rounded": {"stochastic_rounding": True, "precision": "bfloat16"},
    "in backward": {"optimizer_in_backward": True, "clip_per_tensor": True},
    "all": {
        "optimizer": "adamw_8bit",
        "optimizer_in_backward": True,
        "clip_per_tensor": True,
        "stochastic_rounding": True,
        "precision": "bfloat16",
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wide = {"hidden_size": 64, "intermediate_size": 160}
    return tiny_model_folder(tmp_path_factory.mktemp("model"), "llama", **wide)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.jsonl").write_text(lines(ANSWERS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)


def recipe(model: Path, technique: object = "full", **training: object) -> dict[str, object]:
    steps = {"max_steps": 4, "checkpoint_every": 1, "keep_checkpoints": 4, "batch_size": 4}
    return {
        "model": str(model),
        "task": {"name": "instruct", "max_new_tokens": 3},
        "data": {"train": "train.jsonl"},
        "technique": technique,
        "training": {"learning_rate": 0.01, **steps, **training},
        "evaluation": {"generate": 0, "probe": False, "resamples": 100},
    }


@pytest.mark.parametrize("form", LEAN)
def test_a_run_that_was_killed_ends_with_the_same_weights_and_moments(form, model) -> None:
    wanted = recipe(model, **LEAN[form])
    whole = api.train(wanted, name="whole", console=SILENT)
    train_and_kill(wanted, at=3)
    resumed = api.resume("killed", console=SILENT)
    assert state(resumed.path) == state(whole.path)


def checkpointed(run: Path) -> int:
    found: int = json.loads((run / "record.json").read_text())["checkpointing"]["layers"]
    return found


def test_as_few_layers_as_fit_are_computed_twice_and_the_result_is_the_same(
    model, monkeypatch
) -> None:
    monkeypatch.setattr("tunesmith.training.memory.resident_bytes", lambda: 10**9)
    lora = {"name": "lora", "rank": 2, "dropout": 0.2}
    free = api.train(recipe(model, lora), name="free", console=SILENT)
    least = json.loads((free.path / "record.json").read_text())["checkpointing"]["predicted"]
    tight = (sum(least.values()) - 1000) / 1e9
    run = api.train(recipe(model, lora, memory_gb=tight), name="tight", console=SILENT)
    assert checkpointed(free.path) == 0
    assert 0 < checkpointed(run.path) <= LAYERS
    assert state(run.path) == state(free.path)


def test_a_resumed_run_takes_the_choice_that_it_began_with(model, monkeypatch) -> None:
    monkeypatch.setattr(memory_budget, "free_bytes", lambda device: 0)
    train_and_kill(recipe(model), at=2)
    monkeypatch.setattr(memory_budget, "free_bytes", lambda device: 10**15)
    chosen: list[int] = []
    real = Engine.optimizer_step

    def optimizer_step(engine: Engine, rate: float) -> float:
        chosen.append(engine.checkpoints.chosen.layers)
        return real(engine, rate)

    monkeypatch.setattr(Engine, "optimizer_step", optimizer_step)
    api.resume("killed", console=SILENT)
    assert set(chosen) == {checkpointed(Path("runs/killed"))}
    assert 0 not in chosen


def test_what_was_chosen_after_a_shortage_is_kept_and_told(model, monkeypatch) -> None:
    whole = api.train(recipe(model), name="whole", console=SILENT)
    passes: list[int] = []
    real = Engine.forward_backward

    def forward_backward(engine: Engine, *arguments: Any) -> Any:
        passes.append(engine.checkpoints.chosen.layers)
        if len(passes) == 2:
            raise MemoryError
        return real(engine, *arguments)

    monkeypatch.setattr(Engine, "forward_backward", forward_backward)
    train_and_kill(recipe(model), at=3)
    assert checkpointed(Path("runs/killed")) == LAYERS // 2
    before = len(passes)
    resumed = api.resume("killed", console=SILENT)
    assert passes[:2] == [0, 0]
    assert set(passes[before:]) == {LAYERS // 2}
    [said] = [text for text in resumed.summary["data"]["warnings"] if "Memory ran out" in text]
    assert f"{LAYERS // 2} of {LAYERS} layers are computed twice" in said
    assert state(resumed.path) == state(whole.path)


def prepared(recipe: dict[str, object]) -> Prepared:
    return prepare(parse_recipe(recipe), SILENT)


def test_a_job_that_does_not_fit_is_refused_with_the_largest_part_named(model) -> None:
    with pytest.raises(RecipeError) as refused:
        prepared(recipe(model, memory_gb=0.001))
    assert refused.value.where == "training.memory_gb"
    assert "GB" in refused.value.what
    assert refused.value.fix


def test_with_auto_a_job_that_may_not_fit_is_tried_with_a_warning(model, monkeypatch) -> None:
    monkeypatch.setattr(memory_budget, "free_bytes", lambda device: 10**6)
    made = prepared(recipe(model))
    assert made.engine.checkpoints.chosen.layers > 0
    assert any("GB are free" in warning for warning in made.warnings)


def test_an_update_within_the_pass_is_refused_where_a_step_takes_several(model) -> None:
    with pytest.raises(RecipeError) as refused:
        prepared(recipe(model, tokens_per_batch=60, **LEAN["in backward"]))
    assert "one pass" in refused.value.what
    assert refused.value.fix is not None
    raised = int(refused.value.fix.split("tokens_per_batch to ")[1].split(",")[0])
    prepared(recipe(model, tokens_per_batch=raised, **LEAN["in backward"]))


@pytest.mark.parametrize(
    ("training", "line", "says"),
    [
        ("optimizer_in_backward: true", 5, "clip_per_tensor"),
        ("stochastic_rounding: true", 5, "precision to bfloat16"),
        ("optimizer_in_backward: true\n  clip_per_tensor: true", 5, "technique to full"),
        ("memory_gb: lots", 5, "'auto' or a number"),
    ],
)
def test_a_contradiction_names_its_line_and_a_way_out(training, line, says, model) -> None:
    Path("recipe.yaml").write_text(
        f"model: {model}\ntask: instruct\ndata: {{train: train.jsonl}}\ntraining:\n  {training}\n"
    )
    with pytest.raises(RecipeError) as refused:
        load_recipe("recipe.yaml")
    assert str(refused.value.where).startswith(f"recipe.yaml:{line}:")
    assert says in f"{refused.value.what} {refused.value.fix}"
