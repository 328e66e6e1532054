"""An engine made of nothing but transformers: each document alone, no packing, no fast path.

It is what the tasks' figures are compared with, and lets them be tested without the real engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tunesmith.data.batch import Batch
from tunesmith.engine.generation import Generated, Sampling
from tunesmith.models.heads import own_outputs
from tunesmith.models.model import Model
from tunesmith.objectives.base import PerToken, Pooled, TokenLogProbs


class PlainEngine:
    """The verbs that tasks use, over a stock module."""

    packed = True

    def __init__(self, model: Model) -> None:
        self.model = model
        self.device = torch.device("cpu")

    @torch.no_grad()
    def forward(self, batch: Batch, readout: type[Any]) -> Any:
        documents = batch.text.ids_T.split(batch.text.lengths)
        logits = [own_outputs(self.model.module, input_ids=ids[None])[0] for ids in documents]
        if readout is Pooled:
            return Pooled(torch.stack(logits).float())
        if readout is PerToken:
            return PerToken(torch.cat(logits).float())
        assert readout is TokenLogProbs
        rows_N = batch.text.weights_T.nonzero()[:, 0]
        logprobs_TV = torch.cat(logits).float().log_softmax(-1)
        targets_N = batch.text.targets_T[rows_N]
        return TokenLogProbs(
            logprobs_TV[rows_N].gather(1, targets_N[:, None])[:, 0],
            rows_N,
            logprobs_TV[rows_N].argmax(-1) == targets_N,
        )

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        ended: Callable[[], object] = lambda: None,
    ) -> list[Generated]:
        found = []
        for prompt in prompts:
            ids, stopped = list(prompt), False
            for _ in range(sampling.max_new_tokens):
                scores = self.model.module(input_ids=torch.tensor([ids])).logits[0, -1]
                token = int(scores.argmax())
                if token in sampling.stop_ids:
                    stopped = True
                    break
                ids.append(token)
            found.append(Generated(ids[len(prompt) :], [], stopped))
            ended()
        return found
