"""Counts what is learnt of each record before the first step, and what was cut away.

    examples ──find_targets──> Targets     trained tokens, records with none, records that were cut

A record of which nothing is learnt is an error, in every split: `require_targets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.data.batch import Cut, Encoded
from tunesmith.errors import DataError
from tunesmith.quality.lengths import Lengths

_SHOWN = 5


@dataclass(frozen=True)
class Targets:
    """What is learnt of some examples.

    Attributes:
        trained: trained tokens per record (1 where a label is learnt, not tokens).
        tokens: tokens of all records.
        none: places of records of which nothing is learnt.
        cut: places of records that were cut, with what was cut.
    """

    trained: Lengths
    tokens: int
    none: list[int]
    cut: list[tuple[int, Cut]]

    @property
    def share(self) -> float:
        """Share of all tokens that is learnt."""
        return self.trained.total / self.tokens if self.tokens else 0.0

    @property
    def lost(self) -> int:
        """Targets that were cut away."""
        return sum(cut.targets for _, cut in self.cut)


def trained_tokens(example: Encoded) -> int:
    """Return how many tokens of an example are learnt; 1 for one that has a label instead."""
    if example.label is not None:
        return 1
    return sum(stream.trained() for stream in example.streams.values())


def find_targets(examples: Sequence[Encoded]) -> Targets:
    """Count what is learnt of each example."""
    trained = [trained_tokens(example) for example in examples]
    return Targets(
        Lengths.of(trained),
        sum(example.length for example in examples),
        [i for i, count in enumerate(trained) if not count],
        [(i, example.cut) for i, example in enumerate(examples) if example.cut is not None],
    )


def require_targets(examples: Sequence[Encoded], origins: Sequence[str], split: str) -> None:
    """Check that something is learnt of every example.

    Args:
        origins: where each record stands.
        split: `train`, `validation` or `test`, for the message.

    Raises:
        DataError: nothing is learnt of some; names the first few.
    """
    targets = find_targets(examples)
    if not targets.none:
        return
    shown = ", ".join(origins[i] for i in targets.none[:_SHOWN])
    more = ", ..." if len(targets.none) > _SHOWN else ""
    cut = {i for i, _ in targets.cut}
    lost = sum(1 for i in targets.none if i in cut)
    why = f"; {lost} of them were cut to fit the context" if lost else ""
    raise DataError(
        f"Nothing is learnt of {len(targets.none)} of {len(examples)} {split} records "
        f"({shown}{more}){why}.",
        where=f"data.{split}",
        fix="Raise max_length or shorten these records." if lost else "Give them an answer.",
    )


def cut_sentence(targets: Targets, origins: Sequence[str], split: str) -> str | None:
    """Return what was cut in a sentence that names the first few records; None if nothing was."""
    if not targets.cut:
        return None
    sides = " and ".join(sorted({cut.side for _, cut in targets.cut}))
    tokens = sum(cut.tokens for _, cut in targets.cut)
    shown = ", ".join(origins[i] for i, _ in targets.cut[:_SHOWN])
    more = ", ..." if len(targets.cut) > _SHOWN else ""
    return (
        f"{len(targets.cut)} of {targets.trained.count} {split} records were cut to fit ({sides}): "
        f"{tokens} tokens, "
        f"{targets.lost} of them to be learnt ({shown}{more})."
    )
