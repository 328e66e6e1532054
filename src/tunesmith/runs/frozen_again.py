"""A finished run measured again takes what its frozen layers give from where training kept it.

    record of the run, base, result, examples ──share_rows──> both engines take kept rows

Base and result have the frozen layers in common, so that one set of rows serves both, and it is
computed once at most. It serves the result only where its frozen layers are bit for bit the base's
and are computed alike.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tunesmith.console import Console
from tunesmith.data.batch import Encoded
from tunesmith.engine.engine import Engine
from tunesmith.engine.kept_rows import Kept
from tunesmith.recipes.schema import Recipe
from tunesmith.runs.frozen import Source, rows_of, taken_again


def share_rows(
    record: Mapping[str, Any],
    recipe: Recipe,
    base: Engine,
    tuned: Engine,
    examples: Sequence[Encoded],
    console: Console,
) -> None:
    """Let both engines take the rows of these examples; compute those that are not kept yet.

    Nothing is done where the run computed its frozen layers in every pass, or has none.

    Args:
        record: of the run.
        base: the model before training, prepared as for training.
        tuned: the result.

    Raises:
        RunError: the disk is full, or cannot be written.
    """
    frozen = taken_again(record["frozen"])
    if frozen is None or frozen.refused or frozen.layers != base.prefix.layers:
        return
    weights = base.frozen_digest()
    source = Source(base, weights, recipe.evaluation.tokens_per_batch, frozen.per)
    rows = rows_of(source, examples, recipe.training.cache_gb, console)
    if rows is None:
        return
    base.kept = Kept(frozen.per, [rows])
    tuned.look_for_prefix(_learnt(base))
    if _alike(base, tuned) and tuned.frozen_digest() == weights:
        tuned.kept = base.kept


def _learnt(engine: Engine) -> Collection[str]:
    parameters = engine.model.module.named_parameters()
    return {name for name, parameter in parameters if parameter.requires_grad}


def _alike(base: Engine, tuned: Engine) -> bool:
    """Whether two engines compute the same layers to the same bits."""
    return (
        base.prefix.layers == tuned.prefix.layers
        and base.dtype == tuned.dtype
        and base.packed == tuned.packed
        and base.kernels == tuned.kernels
    )
