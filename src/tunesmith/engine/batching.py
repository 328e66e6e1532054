"""Batches for evaluation: the same shapes each time, so that before and after differ by weights.

Examples are taken longest first (memory is known at once) into packs of a token budget; where a
model must be padded, the budget counts the padding. It knows no task: results go back to records by
`Batch.indices`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.data.batch import Batch, Encoded, collate
from tunesmith.data.stored import lengths_of


def batches(examples: Sequence[Encoded], tokens_per_batch: int, packed: bool) -> Iterator[Batch]:
    """Yield all examples, longest first, in batches of at most `tokens_per_batch` tokens.

    Args:
        packed: count tokens as they are; otherwise as many as the longest example, for each.
    """
    lengths = lengths_of(examples)
    order = sorted(range(len(examples)), key=lambda i: (-lengths[i], i))
    chosen: list[int] = []
    used = 0
    for index in order:
        longest = lengths[chosen[0]] if chosen else 0
        cost = lengths[index] if packed else longest
        if chosen and used + cost > tokens_per_batch:
            yield collate([examples[i] for i in chosen], chosen)
            chosen, used = [], 0
        chosen.append(index)
        used += lengths[index] if packed else lengths[chosen[0]]
    if chosen:
        yield collate([examples[i] for i in chosen], chosen)
