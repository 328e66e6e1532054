"""Planning with a model's configuration alone: memory counted at the bytes that weights would take.

    Engine on a shape ──memory_of──> Memory ──> the parts of its peak

The process is counted as it is now, without the weights; the rest is measured as ever, on a forward
pass that computes zeros.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property

from tunesmith.data.plan import Plan
from tunesmith.engine.checkpointing import Checkpointed
from tunesmith.engine.engine import Engine
from tunesmith.models.anatomy.blocks import map_sizes
from tunesmith.training.memory import (
    Memory,
    MemoryEstimate,
    MicroBatch,
    resident_bytes,
)


class ShapeMemory(Memory):
    """Predicts the memory of steps on a model of which only the shape is here."""

    def estimate(self, batch: MicroBatch, checkpointed: Checkpointed) -> MemoryEstimate:
        """Predict the peak of a step whose largest micro-batch is `batch`."""
        process = 0 if self.engine.device.type == "cuda" else _process_bytes()
        found = super().estimate(batch, checkpointed)
        return replace(found, process=process)

    @cached_property
    def packed_bytes(self) -> int:
        """Bytes of the weights that would be stored quantised."""
        quantised = self.engine.model.quantised
        if quantised is None:
            return 0
        return sum(quantised.bytes_of(taken * given, given) for taken, given in self._maps)

    @cached_property
    def _expanded(self) -> int:
        """The largest map while it is used, where maps would be stored quantised."""
        if self.engine.model.quantised is None:
            return 0
        return max(taken * given for taken, given in self._maps) * self.engine.dtype.itemsize

    @property
    def _maps(self) -> list[tuple[int, int]]:
        model = self.engine.model
        names = [name for layer in model.anatomy.layers for name in layer.linears]
        return [map_sizes(model.module.get_submodule(name)) for name in names]


@cache
def _process_bytes() -> int:
    """What the process holds before anything is measured."""
    return resident_bytes()


def memory_of(engine: Engine, plan: Plan) -> Memory:
    """Return what predicts the memory of this engine's steps."""
    kind = ShapeMemory if engine.model.source.origin == "shape" else Memory
    return kind(engine, written_share(plan, engine.packed))


def written_share(plan: Plan, packed: bool) -> float:
    """Return which share of a plan's first step's rows are targets'; a half without sources."""
    rows = {"source": 0, "target": 0}
    for batch in plan[0].batches:
        for name in rows.keys() & batch.streams.keys():
            lengths = batch.streams[name].lengths
            rows[name] += sum(lengths) if packed else len(batch) * max(lengths)
    return rows["target"] / sum(rows.values()) if rows["source"] else 0.5
