"""Score order: pairs that were scored higher become more similar than pairs scored lower (CoSENT).

    loss = log(1 + sum over pairs i scored lower than j of exp(scale * (cosine_i - cosine_j)))

Su, "CoSENT" (2022), as sentence-transformers' CoSENTLoss. All pairs of a step are compared, so it
is one number a step. Reads `Vectors`; the objective of `embedding` where records have scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.objectives.base import Objective, Term, Vectors
from tunesmith.registry import OBJECTIVES

if TYPE_CHECKING:
    from tunesmith.data.batch import Batch


@OBJECTIVES.register("score_order")
class ScoreOrder(Objective):
    """How far the order of cosines is from that of the scores, over all pairs of a step."""

    readout = Vectors
    target = "scores of pairs"
    whole_step = True

    class Options(BaseModel):
        """How sharply pairs are told apart."""

        model_config = ConfigDict(extra="forbid")

        scale: float = Field(
            default=20.0,
            gt=0,
            allow_inf_nan=False,
            description="what differences of cosines are multiplied by",
        )

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return 1: the loss is one of all pairs together."""
        return {"order": 1.0}

    def loss(self, readout: Vectors, batch: Batch) -> dict[str, Term]:
        """Return the loss of all pairs together."""
        import torch
        from torch.nn.functional import cosine_similarity

        if batch.labels is None:
            raise ValueError("this batch has no scores")
        one_BD, other_BD = readout.vectors_SBD
        cosine_B = self.options.scale * cosine_similarity(one_BD, other_BD)
        excess_BB = cosine_B[:, None] - cosine_B[None]
        lower_BB = batch.labels[:, None] < batch.labels[None]
        terms = torch.cat((excess_BB.new_zeros(1), excess_BB[lower_BB]))
        return {"order": Term(torch.logsumexp(terms, 0), 1.0)}
