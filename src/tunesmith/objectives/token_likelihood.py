"""Token likelihood: the log-probability of each learnt token goes up (cross-entropy goes down).

Reads `TokenLogProbs`; counts weights of tokens. The objective of `instruct` and of
`language_modeling`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.objectives.base import Objective, Term, TokenLogProbs
from tunesmith.registry import OBJECTIVES

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.data.batch import Batch


@OBJECTIVES.register("token_likelihood")
class TokenLikelihood(Objective):
    """Negative log-likelihood in nats, a weighted sum over learnt tokens."""

    readout = TokenLogProbs
    target = "the next token"

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the summed weight of the learnt tokens."""
        return {"nll": float(_weights(batch).double().sum())}

    def token_weights(self, batch: Batch) -> Tensor:
        """Return the weight of each learnt token, `[N]`: the loss is minus their product's sum."""
        weights_T = _weights(batch)
        return weights_T[weights_T != 0]

    def loss(self, readout: TokenLogProbs, batch: Batch) -> dict[str, Term]:
        """Return minus the weighted sum of the log-probabilities."""
        weights_N = self.token_weights(batch)
        total = readout.total
        if total is None:
            total = -(readout.logprobs_N * weights_N).sum()
        return {"nll": Term(total, float(weights_N.double().sum()))}


def _weights(batch: Batch) -> Tensor:
    weights_T = batch.text.weights_T
    if weights_T is None:
        raise ValueError("this batch learns no tokens: its stream has no weights")
    return weights_T
