"""How far apart two figures of one metric can lie at all: what a test cannot show however it ends.

    "tagger/f1[city]", 2.5 ──exists──> False

In: a metric's name, as runs write it. Knows the metrics that have bounds, by name; any other (a
likelihood, an error) may change by any amount.
"""

from __future__ import annotations

_WIDEST = {
    1.0: "accuracy answerable_f1 average_precision exact_match f1 macro_f1 micro_f1 ndcg_at_10"
    " precision recall recall_at_1 recall_at_10 reciprocal_rank rouge_1 rouge_2 rouge_l silence"
    " stops_by_itself triplets",
    2.0: "brier pearson spearman",
    100.0: "bleu chrf",
}
WIDEST = {name: widest for widest, names in _WIDEST.items() for name in names.split()}


def exists(metric: str, difference: float) -> bool:
    """Say whether two figures of a metric can differ by so much.

    Args:
        metric: its name, with or without the task before it and the label after it.
    """
    name = metric.partition("[")[0].rpartition("/")[2]
    return abs(difference) <= WIDEST.get(name, float("inf"))
