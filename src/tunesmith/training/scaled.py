"""What a forward pass keeps, as a function of the size of its micro-batch.

    Held of three small micro-batches ──Scaled──> Held of any

A model keeps a constant, something of every token and, where it keeps attention scores, something
of every pair of tokens of a text. It knows no model and measures nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.engine.checkpointing import Held

if TYPE_CHECKING:
    from tunesmith.training.memory import MicroBatch


class Scaled:
    """What is kept as a function of a micro-batch: constant + tokens + squares of lengths.

    Args:
        measured: what was kept of three micro-batches: one document, two of its length, one twice
            as long.
    """

    def __init__(self, measured: list[tuple[MicroBatch, Held]]) -> None:
        self._sizes = [(size.tokens, size.squares) for size, _ in measured]
        self._measured = [held for _, held in measured]

    def at(self, batch: MicroBatch) -> Held:
        """Return what is kept of such a micro-batch."""
        one, two, long = self._measured
        layers = zip(one.inside, two.inside, long.inside, strict=True)
        inputs = zip(one.inputs, two.inputs, long.inputs, strict=True)
        return Held(
            self._scale(one.elsewhere, two.elsewhere, long.elsewhere, batch),
            tuple(self._scale(*values, batch) for values in layers),
            tuple(self._scale(*values, batch) for values in inputs),
        )

    def _scale(self, one: int, two: int, long: int, batch: MicroBatch) -> int:
        (tokens, squares), (more_t, more_s), (long_t, long_s) = self._sizes
        by_t, by_s, beyond_t, beyond_s = (
            more_t - tokens, more_s - squares, long_t - more_t, long_s - more_s
        )  # fmt: skip
        area = by_t * beyond_s - beyond_t * by_s
        square = max(0.0, (by_t * (long - two) - beyond_t * (two - one)) / area)
        linear = max(0.0, (two - one - square * by_s) / by_t)
        constant = max(0.0, one - linear * tokens - square * squares)
        return int(constant + linear * batch.tokens + square * batch.squares)
