"""In-batch negatives: of all texts of a step, the right one is the most similar to its query.

    loss = -log softmax over candidates of (scale * cosine(query, candidate))

The candidates of a query are its own right text, those of the other queries, and every hard
negative (Henderson et al., 2017, arXiv:1705.00652; sentence-transformers'
MultipleNegativesRankingLoss). A candidate that is right for the query as well (the same text, or
that of an equal query) is left out. Reads `Vectors`; the objective of `embedding`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.objectives.base import Objective, Term, Vectors
from tunesmith.registry import OBJECTIVES

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.data.batch import Batch, Stream


@OBJECTIVES.register("in_batch_negatives")
class InBatchNegatives(Objective):
    """Cross-entropy of the right candidate among all texts of a step, in nats, summed."""

    readout = Vectors
    target = "which text is right"
    whole_step = True

    class Options(BaseModel):
        """How sharply candidates are told apart."""

        model_config = ConfigDict(extra="forbid")

        scale: float = Field(
            default=20.0,
            gt=0,
            allow_inf_nan=False,
            description="what cosines are multiplied by: the inverse of a temperature",
        )

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of queries."""
        return {"nll": float(len(batch))}

    def loss(self, readout: Vectors, batch: Batch) -> dict[str, Term]:
        """Return the summed cross-entropy over queries."""
        import torch
        from torch.nn.functional import cross_entropy, normalize

        query_BD, *others = (normalize(part, dim=-1) for part in readout.vectors_SBD)
        candidates_CD = torch.cat(others)
        scores_BC = self.options.scale * query_BD @ candidates_CD.T
        scores_BC = scores_BC.masked_fill(_also_right(batch).to(scores_BC.device), -torch.inf)
        right_B = torch.arange(len(batch), device=scores_BC.device)
        total = cross_entropy(scores_BC, right_B, reduction="sum")
        return {"nll": Term(total, float(len(batch)))}


def _also_right(batch: Batch) -> Tensor:
    """Which candidates (C) are right for a query (B) besides its own right text."""
    import torch

    query, *others = (_texts(stream) for stream in batch.streams.values())
    candidates = [text for texts in others for text in texts]
    rows = [
        [
            place != row
            and (text == others[0][row] or (place < len(query) and query[place] == asked))
            for place, text in enumerate(candidates)
        ]
        for row, asked in enumerate(query)
    ]
    return torch.tensor(rows)


def _texts(stream: Stream) -> list[tuple[int, ...]]:
    import torch

    return [tuple(ids.tolist()) for ids in torch.split(stream.ids_T.cpu(), stream.lengths)]
