"""Spans: the log-probability of where an answer begins and ends goes up (softmax over the tokens).

Reads `PerToken` with two outputs, for beginnings and for ends; counts documents. The label of a
document is (first, last) token of its answer; (0, 0) says that it holds none (Devlin et al., 2018,
arXiv:1810.04805). The objective of `extraction`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.objectives.base import Objective, PerToken, Term
from tunesmith.registry import OBJECTIVES

if TYPE_CHECKING:
    from tunesmith.data.batch import Batch


@OBJECTIVES.register("spans")
class Spans(Objective):
    """Mean negative log-likelihood of beginning and end in nats, summed over documents."""

    readout = PerToken
    target = "a part of a text"

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of documents."""
        return {"nll": float(len(batch))}

    def loss(self, readout: PerToken, batch: Batch) -> dict[str, Term]:
        """Return half the summed cross-entropy of beginnings and of ends."""
        import torch
        from torch.nn.functional import cross_entropy
        from torch.nn.utils.rnn import pad_sequence

        if batch.labels is None:
            raise ValueError("this batch has no answers")
        documents = list(torch.split(readout.outputs_TC, batch.text.lengths))
        logits_BLC = pad_sequence(documents, batch_first=True, padding_value=-torch.inf)
        total = cross_entropy(logits_BLC, batch.labels, reduction="sum") / 2
        return {"nll": Term(total, float(len(batch)))}
