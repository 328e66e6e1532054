"""Learning in 8 bits: near to bfloat16, in training alone, and refused where it brings nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.test_equality import documents, learn
from tests.tiny import tiny_model, tiny_model_folder

import tunesmith
from tunesmith.data.batch import collate
from tunesmith.data.plan import add_counts
from tunesmith.engine.engine import Engine
from tunesmith.engine.precision import choose_dtype
from tunesmith.errors import RecipeError
from tunesmith.kernels import precision
from tunesmith.models.seeded import seeded
from tunesmith.objectives.base import TokenLogProbs
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import TECHNIQUES

CPU = torch.device("cpu")


def engine_with(technique: str, *, float8: bool, **options: Any) -> Engine:
    model = tiny_model("llama")
    kind = TECHNIQUES.get(technique)
    chosen = kind(kind.Options(**options))
    with seeded(0):
        chosen.prepare(model)
    groups = chosen.parameter_groups(model)
    return Engine(model, groups, dtype=torch.bfloat16, float8=float8)


def losses(engine: Engine, steps: int) -> list[float]:
    batch, objective = collate(documents()), TokenLikelihood()
    counts, found = add_counts([objective.counts(batch)]), []
    for _ in range(steps):
        found.append(engine.forward_backward(batch, objective, counts)[0]["nll"])
        engine.optimizer_step(3e-3)
    return found


def test_loss_and_gradients_are_near_those_of_bfloat16() -> None:
    (ours, grads), (plain, expected) = (
        learn(engine_with("full", float8=float8), TokenLikelihood(), [documents()])
        for float8 in (True, False)
    )
    assert ours == pytest.approx(plain, rel=1e-2)
    assert ours != plain
    assert set(grads) == set(expected)
    for name, grad in grads.items():
        assert grad.dtype == torch.float32
        likeness = torch.cosine_similarity(grad.flatten(), expected[name].flatten(), dim=0)
        assert likeness > 0.95, name


def test_it_learns_as_bfloat16_does() -> None:
    ours, plain = (losses(engine_with("full", float8=float8), 25) for float8 in (True, False))
    assert plain[-1] < 0.6 * plain[0]
    assert ours[0] - ours[-1] == pytest.approx(plain[0] - plain[-1], rel=0.03)


def test_what_is_measured_is_computed_as_with_bfloat16() -> None:
    batch = collate(documents())
    ours, plain = (
        engine_with("full", float8=float8).forward(batch, TokenLogProbs) for float8 in (True, False)
    )
    assert torch.equal(ours.logprobs_N, plain.logprobs_N)


def test_names_and_formats_of_what_learns_stay() -> None:
    ours, plain = (engine_with("full", float8=float8) for float8 in (True, False))
    assert ours.digest() == plain.digest()
    assert ours.state_dict().keys() == plain.state_dict().keys()
    assert ours.model.module.state_dict().keys() == plain.model.module.state_dict().keys()


def test_layers_that_do_not_learn_stay_as_they_are() -> None:
    engine = engine_with("layers", float8=True, last=1)
    assert engine.kernels["learnt layers"] == "7 in float8"
    lower, upper = (
        engine.model.module.get_submodule(layer.name) for layer in engine.model.anatomy.layers
    )
    assert "forward" not in vars(lower.self_attn.o_proj)
    assert "forward" in vars(upper.self_attn.o_proj)


def test_a_recipe_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.engine.precision.refuses_float8", lambda device: None)
    folder, training = tiny_model_folder(tmp_path), {"precision": "float8"}
    engine, _ = tunesmith.load(str(folder), technique="full", training=training)
    assert engine.dtype == torch.bfloat16
    assert engine.kernels["learnt layers"] == "14 in float8"


@pytest.mark.parametrize("technique", ["lora", "ia3"])
def test_adapters_are_refused(technique: str) -> None:
    with pytest.raises(RecipeError, match="No linear layer of the model's own learns"):
        engine_with(technique, float8=True)


def test_a_processor_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"does not multiply 8-bit numbers.*capability 8\.9"):
        choose_dtype("float8", CPU)


@pytest.mark.parametrize(
    ("capability", "refused"), [((8, 0), True), ((8, 9), False), ((9, 0), False)]
)
def test_a_gpu_is_judged_by_its_compute_capability(
    capability: tuple[int, int], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    reason = precision.refuses_float8(torch.device("cuda"))
    assert (reason is not None) is refused
    assert not refused or "8.0" in str(reason)
