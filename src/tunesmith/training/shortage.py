"""What is done where memory runs out in a step: more layers are computed twice, and the step again.

    engine, step, objective ──make_room──> a choice that holds less, in words; or a `RunError`

A layer that is computed twice gives the same bits (`engine/checkpointing.py`), and what a
micro-batch draws at random follows from its number: a step that is taken again ends where it would
have ended. So the batch, the order and the result stay what they were; only time is lost. Tries are
few: half of the layers, all of them, and on a GPU their inputs in the memory of the host.
"""

from __future__ import annotations

import torch

from tunesmith.engine.checkpointing import Checkpointed
from tunesmith.engine.engine import Engine
from tunesmith.errors import RunError
from tunesmith.objectives.base import Objective


def make_room(engine: Engine, step: int, objective: Objective) -> str:
    """Let go of what a step has made so far, and let the next try hold less; say what was done.

    Call it where the error is gone: while it is handled, it holds what the pass had kept.

    Raises:
        RunError: nothing is left that would hold less, or weights may have moved already.
    """
    moved = engine.optimizer.options.in_backward  # by what came before the shortage
    next_choice = None if moved else _next_choice(engine)
    if next_choice is None:
        smaller = "training.tokens_per_batch (the result stays the same)"
        if moved or objective.compares_records:  # a step must stay one pass
            smaller = "training.batch_size"
        why = "and nothing is left that could be computed twice"
        if moved:
            why = (
                "and the step cannot be taken again: with optimizer_in_backward, weights have moved"
                " in it already"
            )
        raise RunError(
            f"Memory ran out in step {step}, {why}.",
            fix=f"Begin anew with a lower {smaller} or task.max_length; `tunesmith plan` shows what"
            " fits.",
        )
    for parameter in engine.optimizer.parameters.values():
        parameter.grad = None
    if engine.device.type == "cuda":
        torch.cuda.empty_cache()
    engine.checkpoints.choose(next_choice)
    waiting = ", with their inputs in the memory of the host" if next_choice.offload else ""
    return (
        f"Memory ran out in step {step}. It is taken again: from now on {next_choice.layers} of"
        f" {len(engine.checkpoints.layers)} layers are computed twice{waiting}, which takes longer"
        " and gives the same result."
    )


def _next_choice(engine: Engine) -> Checkpointed | None:
    """Return the next choice that holds less than the one in force; None where there is none."""
    chosen, layers = engine.checkpoints.chosen, len(engine.checkpoints.layers)
    if chosen.layers < layers:
        half = -(-layers // 2)
        return Checkpointed(half if chosen.layers < half else layers, chosen.offload)
    if layers and engine.device.type == "cuda" and not chosen.offload:
        return Checkpointed(layers, offload=True)
    return None
