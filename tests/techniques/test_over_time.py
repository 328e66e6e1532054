"""Techniques that change as the steps go by: who learns when, how moments and ranks shrink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from tests.acceptance.jobs import ANSWERS, lines
from tests.interrupting import stopping_at
from tests.tiny import tiny_model, tiny_model_folder

from tunesmith.console import Console
from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.engine import Engine
from tunesmith.engine.optimizer import AdamWOptions
from tunesmith.errors import InputError, RecipeError
from tunesmith.models.seeded import seeded
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import TECHNIQUES
from tunesmith.runs.train import resume, train
from tunesmith.stored import Stored
from tunesmith.training.guards import Interrupted
from tunesmith.training.memory import Memory

SILENT = Console(quiet=True)
OVER_TIME = {
    "adalora": {"name": "adalora", "rank": 2, "start_rank": 4, "every": 1, "settle": 0.2},
    "galore": {"name": "galore", "rank": 4, "every": 2},
    "lisa": {"name": "lisa", "layers": 1, "every": 2},
    "gradual": {"name": "full", "gradual": 0.9},
}


def made(name: str, optimizer: AdamWOptions | None = None, depth: int = 4, **options: Any) -> Any:
    """Return an engine of a tiny Llama, and its technique."""
    model = tiny_model("llama", num_hidden_layers=depth)
    kind = TECHNIQUES.get(name)
    technique = kind(kind.Options(**options))
    with seeded(0):
        technique.prepare(model)
    return Engine(model, technique.parameter_groups(model), optimizer), technique


def examples() -> list[Encoded]:
    rows = [tuple(range(10 + i, 18 + 2 * i)) for i in range(4)]
    return [Encoded({"text": EncodedStream(ids, (1.0,) * len(ids))}) for ids in rows]


def gradients(engine: Engine) -> None:
    batch, objective = collate(examples()), TokenLikelihood()
    engine.forward_backward(batch, objective, objective.counts(batch))


def step(engine: Engine, technique: Any, number: int, rate: float = 0.01) -> set[str]:
    """Take a step as the loop does; return the names of what moved."""
    before = {n: p.detach().clone() for n, p in engine.model.module.named_parameters()}
    technique.before_step(number)
    gradients(engine)
    technique.before_update(number)
    engine.optimizer_step(rate)
    technique.after_update(number)
    now = dict(engine.model.module.named_parameters())
    return {name for name, value in before.items() if not torch.equal(value, now[name])}


def layers_of(names: set[str]) -> set[int]:
    return {int(name.split(".")[2]) for name in names if ".layers." in name}


def test_lisa_moves_the_layers_that_are_drawn_and_no_others() -> None:
    engine, technique = made("lisa", layers=2, every=2)
    technique.begin(engine.model, 8)
    seen = []
    for number in range(8):
        moved = step(engine, technique, number)
        assert layers_of(moved) == set(technique.drawn(number))
        assert {"model.embed_tokens.weight", "model.norm.weight"} <= moved
        seen.append(tuple(technique.drawn(number)))
    assert seen[0::2] == seen[1::2]
    assert len(set(seen)) > 1


def test_lisa_lets_go_of_the_moments_of_what_is_frozen() -> None:
    engine, technique = made("lisa", layers=1, every=1)
    technique.begin(engine.model, 8)
    for number in range(6):
        step(engine, technique, number)
    kept = {name.partition("/")[2] for name in engine.state_dict() if name.endswith("/exp_avg")}
    assert layers_of(kept) == set(technique.drawn(5))


def test_less_memory_is_foretold_where_fewer_layers_learn_at_a_time() -> None:
    one, four = (Memory(made("lisa", layers=count)[0]) for count in (1, 4))
    assert one._optimizer < four._optimizer
    assert sum(one._learnt.layers) * 4 == pytest.approx(sum(four._learnt.layers), rel=0.01)
    full, galore = Memory(made("full")[0]), Memory(made("galore", rank=4)[0])
    assert galore._optimizer < full._optimizer


def test_lisa_refuses_more_layers_than_there_are() -> None:
    with pytest.raises(RecipeError, match="the model has 4"):
        made("lisa", layers=5)


def test_layers_begin_to_learn_from_the_top_down() -> None:
    engine, technique = made("full", gradual=0.5)
    technique.begin(engine.model, 16)
    lowest = []
    for number in range(9):
        moved = step(engine, technique, number)
        lowest.append(min(layers_of(moved)))
        assert ("model.embed_tokens.weight" in moved) == (number >= 8)
        assert "model.norm.weight" in moved
    assert lowest == [3, 3, 2, 2, 1, 1, 0, 0, 0]


def test_only_the_chosen_layers_are_unfrozen() -> None:
    engine, technique = made("layers", last=2, gradual=0.5)
    technique.begin(engine.model, 8)
    assert layers_of(step(engine, technique, 0)) == {3}
    assert layers_of(step(engine, technique, 4)) == {2, 3}


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_galore_equals_adam_on_the_projected_gradient(shape: tuple[int, int]) -> None:
    from tunesmith.engine.optimizer import Optimizer
    from tunesmith.techniques.base import ParameterGroup, Projection

    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(*shape, generator=generator))
    theirs = weight.detach().clone()
    group = ParameterGroup({"w": weight}, projection=Projection(rank=3, every=2, scale=0.5))
    optimizer = Optimizer([group], AdamWOptions(weight_decay=0.1, max_grad_norm=1e9))
    mean, variance = torch.zeros(3, 10), torch.zeros(3, 10)
    for number in range(5):
        gradient = torch.randn(*shape, generator=generator)
        weight.grad = gradient.clone()
        optimizer.step(0.02)
        turned = gradient if shape[0] < shape[1] else gradient.T
        if number % 2 == 0:
            directions = torch.linalg.svd(turned, full_matrices=False).U[:, :3]
        small = directions.T @ turned
        mean = 0.9 * mean + 0.1 * small
        variance = 0.999 * variance + 0.001 * small.square()
        sizes = (variance / (1 - 0.999 ** (number + 1))).sqrt() + 1e-8
        change = directions @ (mean / (1 - 0.9 ** (number + 1)) / sizes)
        change = change if shape[0] < shape[1] else change.T
        theirs = theirs * (1 - 0.02 * 0.1) - 0.02 * 0.5 * change
        torch.testing.assert_close(weight.detach(), theirs, rtol=1e-4, atol=1e-5)


def test_galore_rounds_narrow_weights_at_random() -> None:
    from tunesmith.engine.optimizer import Optimizer
    from tunesmith.techniques.base import ParameterGroup, Projection

    weight = torch.nn.Parameter(torch.ones(64, 64))
    group = ParameterGroup({"w": weight}, projection=Projection(rank=8, every=1, scale=1.0))
    optimizer = Optimizer([group], AdamWOptions(stochastic_rounding=True, max_grad_norm=1e9))
    generator = torch.Generator().manual_seed(0)
    weight.grad = torch.randn(64, 64, generator=generator).to(torch.bfloat16)
    optimizer.step(1e-4)  # less than half of what bfloat16 can tell from 1
    assert weight.dtype == torch.bfloat16
    assert 0 < int((weight != 1).sum()) < weight.numel()


def test_galore_keeps_small_moments_of_matrices_and_whole_ones_of_the_rest() -> None:
    engine, technique = made("galore", rank=4)
    moved = step(engine, technique, 0)
    assert moved == set(engine.optimizer.parameters)
    state = engine.state_dict()
    assert state["optimizer/model.layers.0.self_attn.q_proj.weight/exp_avg"].shape == (4, 32)
    table = engine.optimizer.parameters["model.embed_tokens.weight"]
    assert state["optimizer/model.embed_tokens.weight/exp_avg"].shape == table.shape


def test_adalora_equals_pefts_own_loop() -> None:
    engine, technique = made("adalora", rank=2, start_rank=4, every=1, settle=0.2, warmup=0.0,
                             optimizer=AdamWOptions(max_grad_norm=1e9), depth=2)  # fmt: skip
    technique.begin(engine.model, 8)
    model = tiny_model("llama", num_hidden_layers=2)
    config = peft.AdaLoraConfig(**{
        name: value for name, value in technique.config(model).to_dict().items()
        if name in ("target_modules", "init_r", "target_r", "lora_alpha", "orth_reg_weight",
                    "deltaT", "task_type")
    }, total_step=8, tinit=0, tfinal=1)  # fmt: skip
    theirs = peft.get_peft_model(model.module, config)
    start = dict(engine.model.module.named_parameters())
    with torch.no_grad():
        for name, parameter in theirs.base_model.model.named_parameters():
            parameter.copy_(start[name])
    learns = [p for p in theirs.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(learns, lr=0.01, weight_decay=0.0)
    rows = [torch.tensor([example.streams["text"].ids]) for example in examples()]
    count = sum(row.shape[1] - 1 for row in rows)
    for number in range(8):
        step(engine, technique, number)
        plain = [theirs.base_model.model(input_ids=row, labels=row).loss for row in rows]
        apart = theirs(input_ids=rows[0], labels=rows[0]).loss - plain[0]  # PEFT's penalty
        pairs = zip(plain, rows, strict=True)
        likelihood = sum(loss * (row.shape[1] - 1) / count for loss, row in pairs)
        (likelihood + apart).backward()
        adam.step()
        theirs.base_model.update_and_allocate(number + 1)
        adam.zero_grad()
    ours = dict(engine.model.module.named_parameters())
    for name, parameter in theirs.base_model.model.named_parameters():
        torch.testing.assert_close(ours[name], parameter, rtol=1e-2, atol=1e-3)
        if "lora_E" in name:
            assert torch.equal(parameter == 0, ours[name] == 0), name


def test_adalora_ends_with_the_ranks_that_were_asked_for_and_saves_no_more(tmp_path: Path) -> None:
    engine, technique = made("adalora", rank=2, start_rank=4, every=1, settle=0.2, depth=2)
    technique.begin(engine.model, 8)
    for number in range(8):
        step(engine, technique, number)
    left = sum(
        int((p != 0).sum()) for n, p in engine.model.module.named_parameters() if ".lora_E." in n
    )
    adapters = sum(".lora_E." in n for n in engine.optimizer.parameters)
    assert left == 2 * adapters
    technique.save(engine.model, tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert sum(len(t) for n, t in saved.items() if n.endswith("lora_E")) == left
    assert "Ranks left" in technique.facts()


@pytest.mark.parametrize("lost", ["exp_avg_ipt", "exp_avg_unc", ""])
def test_adalora_says_what_a_checkpoint_of_an_older_version_lacks(lost: str) -> None:
    engine, technique = made("adalora", rank=2, start_rank=4, every=1, settle=0.2, depth=2)
    technique.begin(engine.model, 10)
    step(engine, technique, 0)
    kept = {name: t for name, t in technique.tensors().items() if lost not in name}
    with pytest.raises(InputError, match=f"It lacks '{lost}"):
        technique.load_tensors(Stored(kept))


@pytest.mark.parametrize("name", OVER_TIME)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)
    (tmp_path / "train.jsonl").write_text(lines(ANSWERS))
    recipe = {
        "model": str(tiny_model_folder(tmp_path, "llama", dropout=0.1)),
        "task": {"name": "instruct", "max_new_tokens": 3},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "technique": OVER_TIME[name],
        "training": {"max_steps": 8, "batch_size": 4, "learning_rate": 0.01,
                     "checkpoint_every": 1},
        "evaluation": {"generate": 0, "probe": False, "resamples": 100},
    }  # fmt: skip
    whole = train(recipe, runs_dir=tmp_path, name="whole", console=SILENT)
    with stopping_at(6), pytest.raises(Interrupted):
        train(recipe, runs_dir=tmp_path, name="stopped", console=SILENT)
    stopped = resume("stopped", runs_dir=tmp_path, console=SILENT)
    files = [next(run.folder.model.glob("*.safetensors")) for run in (stopped, whole)]
    ours, theirs = map(load_file, files)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)
