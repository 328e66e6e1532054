"""Masked likelihood: the log-probability of each hidden token goes up (softmax cross-entropy).

Reads `TokenLogProbs`; counts hidden tokens. What stood there is the class of the token. The
objective of `masked_language_modeling` (Devlin et al., 2018, arXiv:1810.04805).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.objectives.base import Objective, Term, TokenLogProbs
from tunesmith.registry import OBJECTIVES

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.data.batch import Batch


@OBJECTIVES.register("masked_likelihood")
class MaskedLikelihood(Objective):
    """Negative log-likelihood in nats, summed over the tokens that were hidden."""

    readout = TokenLogProbs
    target = "what was hidden"

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of hidden tokens."""
        return {"nll": float(len(batch.text.learnt()[0]))}

    def token_weights(self, batch: Batch) -> Tensor:
        """Return 1 for each hidden token, `[N]`: the loss is minus the sum of their products."""
        import torch

        _, targets_N = batch.text.learnt()
        return torch.ones_like(targets_N, dtype=torch.float32)

    def loss(self, readout: TokenLogProbs, batch: Batch) -> dict[str, Term]:
        """Return minus the sum of the log-probabilities."""
        total = readout.total
        if total is None:
            total = -readout.logprobs_N.sum()
        return {"nll": Term(total, self.counts(batch)["nll"])}
