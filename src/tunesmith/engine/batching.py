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
        packed: count tokens as they are; otherwise, for each, as many as the longest example has
            in each stream.
    """
    lengths = lengths_of(examples)
    order = sorted(range(len(examples)), key=lambda i: (-lengths[i], i))
    chosen: list[int] = []
    used = 0
    longest: dict[str, int] = {}
    for index in order:
        taken, wider = used + lengths[index], longest
        if not packed:
            wider = _longest(longest, examples[index])
            taken = (len(chosen) + 1) * sum(wider.values())
        if chosen and taken > tokens_per_batch:
            yield collate([examples[i] for i in chosen], chosen)
            chosen, taken = [], lengths[index]
            wider = longest if packed else _longest({}, examples[index])
        chosen.append(index)
        used, longest = taken, wider
    if chosen:
        yield collate([examples[i] for i in chosen], chosen)


def _longest(longest: dict[str, int], example: Encoded) -> dict[str, int]:
    """Return the most tokens of each stream, with one more example."""
    return {
        name: max(longest.get(name, 0), len(stream.ids)) for name, stream in example.streams.items()
    }
