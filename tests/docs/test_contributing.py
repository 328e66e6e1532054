"""The three members that CONTRIBUTING.md shows are complete: each is run as it stands there."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_llama, tiny_model

from tunesmith.console import Console
from tunesmith.data.plan import Plan
from tunesmith.data.records import Document, LabelledText
from tunesmith.engine.engine import Engine
from tunesmith.engine.optimizer import AdamWOptions
from tunesmith.errors import DataError
from tunesmith.registry import OBJECTIVES, TASKS, TECHNIQUES, Registry

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")

MODULE = "contributed"
Member = Callable[[str], Any]


@pytest.fixture
def member() -> Iterator[Member]:
    """Return a function that runs the block under a heading and returns what it registers."""
    registries: tuple[Registry[Any], ...] = (OBJECTIVES, TECHNIQUES, TASKS)

    def contributed(registry: Registry[Any]) -> dict[str, Any]:
        members = registry._members.items()
        return {name: found for name, found in members if found.__module__ == MODULE}

    def run(heading: str) -> Any:
        block = re.search(rf"^## {heading}\n.*?```python\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE)
        assert block is not None
        sys.modules[MODULE] = module = types.ModuleType(MODULE)
        exec(compile(block[1], "CONTRIBUTING.md", "exec"), module.__dict__)
        return next(found for registry in registries for found in contributed(registry).values())

    yield run
    for registry in registries:
        for name in contributed(registry):
            del registry._members[name]
    sys.modules.pop(MODULE, None)


def train(engine: Engine, task: Any, objective: Any, records: list[Any], steps: int) -> list[float]:
    """Take some steps and return the losses."""
    examples = task.encode_all(records)
    plan = Plan(
        examples, objective.counts, batch_size=4, tokens_per_batch=256, max_steps=steps, seed=0
    )
    losses = []
    for step in plan:
        shares = [engine.forward_backward(batch, objective, step.counts)[0] for batch in step]
        engine.optimizer_step(learning_rate=0.01)
        losses.append(sum(sum(share.values()) for share in shares))
    return losses


def test_the_objective_learns_and_is_cross_entropy_at_gamma_zero(member: Member) -> None:
    focal = member("Add an objective")
    plain, task = OBJECTIVES.get("classes")(), TASKS.get("classification")()
    records = [LabelledText(text=f"{word} {i}", label=word) for i in range(6) for word in "ab"]
    task.study(records)
    model = tiny_model("bert", head="classification", labels=task.labels)
    task.bind(model)
    examples = task.encode_all(records)
    batch = Plan(examples, plain.counts, batch_size=12, tokens_per_batch=512)[0].batches[0]
    outputs = types.SimpleNamespace(outputs_BC=torch.randn(len(batch), 2))
    zero = focal(focal.Options(gamma=0.0))
    assert torch.allclose(
        zero.loss(outputs, batch)["focal"].total, plain.loss(outputs, batch)["nll"].total
    )
    assert focal().loss(outputs, batch)["focal"].total < plain.loss(outputs, batch)["nll"].total
    full = TECHNIQUES.get("full")()
    full.prepare(model)
    engine = Engine(model, full.parameter_groups(model), AdamWOptions())
    losses = train(engine, task, focal(), records, 12)
    assert losses[-1] < losses[0]


def test_the_technique_moves_vectors_and_nothing_else(member: Member, tmp_path: Path) -> None:
    technique = member("Add a technique")()
    task, objective = TASKS.get("language_modeling")(), OBJECTIVES.get("token_likelihood")()
    model = tiny_llama()
    task.bind(model)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    technique.prepare(model)
    engine = Engine(model, technique.parameter_groups(model), AdamWOptions())
    losses = train(engine, task, objective, [Document(text="to be or not to be")] * 4, 12)
    assert losses[-1] < losses[0]
    after = model.module.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(after[name].ndim == 1 for name in moved)
    technique.save(model, tmp_path / "model")
    assert (tmp_path / "model" / "config.json").exists()


def test_the_task_learns_the_last_word_and_only_that(member: Member) -> None:
    task, objective = member("Add a task")(), OBJECTIVES.get("token_likelihood")()
    model = tiny_llama()
    task.bind(model)
    records = [Document(text="sun moon star")] * 4
    assert task.encode(records[0]).streams["text"].trained() == len(" star") + 1
    with pytest.raises(DataError, match="one word only"):
        task.encode(Document(text="alone"))
    full = TECHNIQUES.get("full")()
    full.prepare(model)
    engine = Engine(model, full.parameter_groups(model), AdamWOptions())

    def log_likelihood() -> float:
        examples = task.encode_all(records)
        scores = task.measure(engine, records, examples, generate=0, console=Console(quiet=True))
        return scores[0].statistics["log_likelihood"]

    first = log_likelihood()
    train(engine, task, objective, records, 25)
    assert log_likelihood() > first / 10
    assert task.present(records[0]) == ("sun moon", "star")
    assert task.predict(engine, ["sun moon"])[0].text == "star"
