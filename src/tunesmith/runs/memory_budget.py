"""Which layers are computed a second time so that training fits the memory it may take.

    recipe.training.memory_gb, engine, plan ──fit_memory──> MemoryEstimate (and the engine's choice)

The choice is written into the run's record, and again where memory ran out in a step; a resumed run
takes the last one, whatever is free then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tunesmith.data.plan import Plan
from tunesmith.engine.checkpointing import Checkpointed
from tunesmith.engine.engine import Engine
from tunesmith.errors import RecipeError
from tunesmith.recipes.training import TrainingOptions
from tunesmith.runs.shape import memory_of
from tunesmith.training.memory import MemoryEstimate, free_bytes, largest_micro_batch

_GB = 10**9


def fit_memory(
    training: TrainingOptions, engine: Engine, plan: Plan, beside: int = 0
) -> tuple[MemoryEstimate, list[str]]:
    """Checkpoint as few layers as let training fit its memory.

    Args:
        beside: bytes that are held beside what training itself needs.

    Returns:
        The estimate of the peak, and warnings: with `memory_gb: auto` a job that is not expected to
        fit is tried all the same.

    Raises:
        RecipeError: it does not fit the memory that the recipe states, or a step takes several
            passes where the update is made within the one.
    """
    if training.optimizer_in_backward:
        check_one_pass(plan)
    stated = None if training.memory_gb == "auto" else int(training.memory_gb * _GB)
    budget = free_bytes(engine.device) if stated is None else stated
    batch = largest_micro_batch(plan, engine)
    chosen, estimate = memory_of(engine, plan).fit(batch, budget - beside)
    estimate = replace(estimate, weights=estimate.weights + beside)
    engine.checkpoints.choose(chosen)
    if estimate.total <= budget:
        return estimate, []
    needed = f"{estimate.total / _GB:.2g}"
    if stated is None:
        return estimate, [
            f"Training is expected to take {needed} GB, and {budget / _GB:.2g} GB are free."
        ]
    raise RecipeError(
        f"Training would take about {needed} GB, even where every layer that can be is computed"
        f" twice ({estimate.split()}).",
        where="training.memory_gb",
        fix=_fix(training, estimate),
    )


def check_one_pass(plan: Plan) -> None:
    """Raise RecipeError where a step of this plan takes more than one forward and backward pass."""
    steps = [step for step in range(len(plan)) if plan.passes(step) > 1]
    if steps:
        raise RecipeError(
            f"optimizer_in_backward needs every step to be one pass; step {steps[0] + 1} takes"
            f" {plan.passes(steps[0])} ({len(steps)} of {len(plan)} steps take several).",
            where="training.optimizer_in_backward",
            fix=f"Set training.tokens_per_batch to {max(map(plan.tokens_of, steps))}, lower"
            " training.batch_size, or leave it out.",
        )


def record_of(engine: Engine, estimate: MemoryEstimate) -> dict[str, Any]:
    """Return what the run's record says of the choice, and why it was made."""
    return {
        **_chosen(engine),
        "of": len(engine.checkpoints.layers),
        "predicted": estimate.parts(),
        "shortages": [],
    }


def after_shortage(engine: Engine, record: Mapping[str, Any], said: str) -> dict[str, Any]:
    """Return what the run's record says of the choice once memory ran out in a step."""
    return {**record, **_chosen(engine), "shortages": [*record["shortages"], said]}


def replay(engine: Engine, record: Mapping[str, Any]) -> None:
    """Choose again what a run had chosen last."""
    engine.checkpoints.choose(Checkpointed(record["layers"], record["offload"]))


def _chosen(engine: Engine) -> dict[str, Any]:
    chosen = engine.checkpoints.chosen
    return {"layers": chosen.layers, "offload": chosen.offload}


def _fix(training: TrainingOptions, estimate: MemoryEstimate) -> str:
    """Name the cheapest remedy for the largest part."""
    parts = {name: size for name, size in estimate.parts().items() if name != "process"}
    largest = max(parts, key=lambda name: parts[name])
    if largest == "optimizer" and training.optimizer == "adamw":
        return "Set training.optimizer to adamw_8bit, or choose technique lora."
    if largest in ("optimizer", "gradients"):
        return "Choose technique lora: fewer weights learn."
    if largest == "weights":
        return "Raise it, or choose a smaller model."
    return "Lower training.tokens_per_batch, or task.max_length."
