"""How likely learnt tokens are: teacher forcing, and the metrics of it.

    examples ──token_scores──> log-likelihood, tokens, correct ones, of each

It knows no records: what of an example is learnt, its weights say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.tasks.base import Metric

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine


def token_scores(
    engine: Engine,
    examples: Sequence[Encoded],
    *,
    tokens_per_batch: int,
    console: Console,
) -> list[dict[str, float]]:
    """Measure by teacher forcing how likely the learnt tokens of each example are.

    Returns:
        For each example: `log_likelihood` (sum in nats), `tokens` (learnt ones) and `correct` (on
        how many the most likely token was the right one, *given the right ones before it*).
    """
    import torch

    from tunesmith.engine.batching import batches
    from tunesmith.objectives.base import TokenLogProbs

    scores: list[dict[str, float]] = [{} for _ in examples]
    with console.progress("measure", len(examples)) as bar:
        for batch in batches(examples, tokens_per_batch, packed=engine.packed):
            readout = engine.forward(batch, TokenLogProbs)
            rows_N = readout.rows_N.cpu()
            ends = batch.text.cu_seqlens[1:].cpu().long()
            document_N = torch.searchsorted(ends, rows_N, right=True)
            columns = {
                "log_likelihood": readout.logprobs_N,
                "tokens": torch.ones(len(rows_N)),
                "correct": readout.correct_N,
            }
            for name, value_N in columns.items():
                if value_N is None:
                    continue
                sums = torch.zeros(len(batch), dtype=torch.float64)
                sums.index_add_(0, document_N, value_N.cpu().double())
                for index, total in zip(batch.indices, sums.tolist(), strict=True):
                    scores[index][name] = total
            bar.advance(len(batch))
    return scores


def token_metrics() -> list[Metric]:
    """Return the metrics of teacher-forced text: log-likelihood a token, and perplexity."""
    return [
        Metric.mean(
            "log_likelihood",
            "how likely the held-out text is to the model, given the right text before each token",
            over="tokens",
            unit="nats per token",
            assumed_sd=0.3,
            assumption="records' changes differ by 0.3 nats per token (standard deviation)",
        ),
        Metric(
            "perplexity",
            ("log_likelihood", "tokens"),
            lambda sums: np.exp(-sums["log_likelihood"] / sums["tokens"]),
            "among how many equally likely tokens the model hesitates, on average",
            higher_is_better=False,
        ),
    ]
