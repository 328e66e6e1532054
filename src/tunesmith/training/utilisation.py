"""Model FLOPs utilisation (MFU): how much of what the machine can do goes into the model.

    MFU = FLOPs that the model's mathematics needs a second / FLOPs a second of matrix products

Above, `models/flops.py` counts; below, a `Roof` that was measured on this machine, never taken from
a data sheet. A beginning that documents share is counted as it is computed, once. MFU can be more
than 1 where the roof was measured while the machine was busy; it is shown as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tunesmith.data.batch import Batch
from tunesmith.data.plan import Step
from tunesmith.models.flops import Cost, Work


@dataclass(frozen=True)
class Roof:
    """The rate of matrix products that a run is held against.

    Attributes:
        flops_per_second: in products of matrices, best of several samples.
        dtype, threads: the format and the threads that the run computes with (threads: None on a
            GPU).
        device: `cpu` or `cuda`.
        source: `kept` where `tunesmith bench hardware` measured it, `brief` where the run did at
            its start.
        measured: when, UTC, ISO 8601.
        samples, spread: how many samples, and how far the middle one lay below the best, as a
            share.
        busy: whether others used the machine meanwhile, so that the rate is lower than its own.
        identity: what the rate depends on: elsewhere there is another.
    """

    flops_per_second: float
    dtype: str
    threads: int | None
    device: str
    source: Literal["kept", "brief"]
    measured: str
    samples: int
    spread: float
    busy: bool
    identity: Mapping[str, str]


@dataclass(frozen=True)
class Meter:
    """Counts the FLOPs of steps and holds them against the roof.

    Attributes:
        begun: says how many first tokens of each document of a batch are computed with another's.
    """

    cost: Cost
    roof: Roof
    begun: Callable[[Batch], tuple[int, ...]] = lambda batch: ()

    def flops(self, step: Step) -> float:
        """Return the model FLOPs of a step: forward and backward of all its micro-batches."""
        return sum(self.cost.flops(Work.of(batch, self.begun(batch))) for batch in step)

    def possible(self, seconds: float) -> float:
        """Return the FLOPs that products of matrices alone could have done in that time."""
        return seconds * self.roof.flops_per_second
