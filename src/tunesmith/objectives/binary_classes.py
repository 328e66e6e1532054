"""Binary classes: each class of a document by itself, there or not (sigmoid cross-entropy).

Reads `Pooled`; counts classes of documents. A label says of each class how true it is, 0 to 1. The
objective of `multi_label` and, with "relevant" as the one class, of `reranking`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.objectives.base import Objective, Pooled, Term
from tunesmith.registry import OBJECTIVES

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.data.batch import Batch


@OBJECTIVES.register("binary_classes")
class BinaryClasses(Objective):
    """Negative log-likelihood of each class being there or not in nats, summed over all."""

    readout = Pooled
    target = "whether each class is there"

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of documents times that of classes."""
        return {"nll": float(_labels(batch).numel())}

    def loss(self, readout: Pooled, batch: Batch) -> dict[str, Term]:
        """Return the summed binary cross-entropy of `outputs_BC` against the labels."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        labels_BC = _labels(batch)
        total = binary_cross_entropy_with_logits(readout.outputs_BC, labels_BC, reduction="sum")
        return {"nll": Term(total, float(labels_BC.numel()))}


def _labels(batch: Batch) -> Tensor:
    if batch.labels is None:
        raise ValueError("this batch has no labels")
    return batch.labels
