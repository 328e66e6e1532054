"""Counts what is learnt of each record before the first step, and what was cut away.

    examples ──find_targets──> Targets     trained tokens, records with none, records that were cut

Tasks refuse records of which nothing is learnt; see `data.unlearnable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.data.batch import Cut, Encoded
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
