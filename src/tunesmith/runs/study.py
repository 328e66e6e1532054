"""Lets a technique look at training records before it says what learns.

    technique, model, records ──study_records──> the technique has seen their gradients

Some techniques choose by the data (layers that score highest). A forward and backward pass of a few
records is made at the weights as they are, in batches of four; nothing is moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunesmith.data.batch import Encoded, collate
from tunesmith.engine.engine import Engine
from tunesmith.errors import RecipeError
from tunesmith.models.layer_scores import GradientStatistics
from tunesmith.models.learning import freeze
from tunesmith.models.model import Model
from tunesmith.models.seeded import seeded
from tunesmith.objectives.base import Objective
from tunesmith.techniques.base import Technique

BATCH = 4


def study_records(
    technique: Technique,
    model: Model,
    objective: Objective,
    examples: Sequence[Encoded],
    *,
    dtype: torch.dtype,
    seed: int,
) -> None:
    """Show the technique the gradients of so many examples as it wants, drawn at random.

    Args:
        examples: encoded training records.
        dtype: the format to compute in.

    Raises:
        RecipeError: there are fewer than two batches of records.
    """
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [examples[place] for place in order[: technique.records_to_study]]
    if len(chosen) < 2 * BATCH:
        raise RecipeError(
            f"To find the layers that matter, {2 * BATCH} training records are needed at least;"
            f" there are {len(chosen)}.",
            where="technique.find",
            fix="Give more records, name the layers, or use `find: spectrum`.",
        )
    freeze(model.module)
    statistics = GradientStatistics(model.module, model.anatomy)
    engine = Engine(model, dtype=dtype, fuse=False)
    with seeded(seed), statistics.learning():
        for start in range(0, len(chosen), BATCH):
            batch = collate(chosen[start : start + BATCH])
            engine.forward_backward(batch, objective, objective.counts(batch))
            statistics.observe()
    model.module.eval()
    technique.study(statistics)
