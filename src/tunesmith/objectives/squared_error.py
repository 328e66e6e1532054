"""Squared error: what the head says of a document comes near to its score.

Reads `Pooled` with one output; counts documents. The objective of `regression`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.objectives.base import Objective, Pooled, Term
from tunesmith.registry import OBJECTIVES

if TYPE_CHECKING:
    from tunesmith.data.batch import Batch


@OBJECTIVES.register("squared_error")
class SquaredError(Objective):
    """Squared difference from the score, summed over documents."""

    readout = Pooled
    target = "a number"

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of documents."""
        return {"squared_error": float(len(batch))}

    def loss(self, readout: Pooled, batch: Batch) -> dict[str, Term]:
        """Return the summed squared difference of `outputs_BC` (C is 1) from the scores."""
        from torch.nn.functional import mse_loss

        if batch.labels is None:
            raise ValueError("this batch has no scores")
        total = mse_loss(readout.outputs_BC[:, 0], batch.labels, reduction="sum")
        return {"squared_error": Term(total, float(len(batch)))}
