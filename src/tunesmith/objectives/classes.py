"""Classes: the log-probability of each document's class goes up (softmax cross-entropy).

Reads `Pooled`; counts documents. The objective of `classification`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.objectives.base import Objective, Pooled, Term
from tunesmith.registry import OBJECTIVES

if TYPE_CHECKING:
    from tunesmith.data.batch import Batch


@OBJECTIVES.register("classes")
class Classes(Objective):
    """Negative log-likelihood of the class in nats, summed over documents."""

    readout = Pooled
    target = "one class of a text"

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of documents."""
        return {"nll": float(len(batch))}

    def loss(self, readout: Pooled, batch: Batch) -> dict[str, Term]:
        """Return the summed cross-entropy of `outputs_BC` against the labels."""
        from torch.nn.functional import cross_entropy

        if batch.labels is None:
            raise ValueError("this batch has no labels")
        total = cross_entropy(readout.outputs_BC, batch.labels, reduction="sum")
        return {"nll": Term(total, float(len(batch)))}
