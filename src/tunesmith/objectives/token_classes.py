"""Token classes: the log-probability of each token's class goes up (softmax cross-entropy).

Reads `PerToken`; counts tokens that have a class. The objective of `tagging`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.objectives.base import Objective, PerToken, Term
from tunesmith.registry import OBJECTIVES

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.data.batch import Batch


@OBJECTIVES.register("token_classes")
class TokenClasses(Objective):
    """Negative log-likelihood of the class in nats, summed over the tokens that have one."""

    readout = PerToken
    target = "a class of each token"

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of tokens that have a class."""
        from tunesmith.data.batch import NO_CLASS

        return {"nll": float((_classes(batch) != NO_CLASS).sum())}

    def loss(self, readout: PerToken, batch: Batch) -> dict[str, Term]:
        """Return the summed cross-entropy of `outputs_TC` against the classes."""
        from torch.nn.functional import cross_entropy

        from tunesmith.data.batch import NO_CLASS

        total = cross_entropy(
            readout.outputs_TC, _classes(batch), reduction="sum", ignore_index=NO_CLASS
        )
        return {"nll": Term(total, self.counts(batch)["nll"])}


def _classes(batch: Batch) -> Tensor:
    classes_T = batch.text.classes_T
    if classes_T is None:
        raise ValueError("this batch has no classes of tokens")
    return classes_T
