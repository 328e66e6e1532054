"""A device's roofline: what was measured of it, and what that says. Plain data, without torch.

    FLOP/s ^
           |        ________________  matrix-product rate
           |      /
           |    /   memory bandwidth
           |  /
           +-----------------------> FLOPs for each byte that is moved

A computation that does few operations with each byte is held back by memory, one that does many by
arithmetic; the two lines meet at `balances` (Williams, Waterman & Patterson 2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

UNSTEADY = 0.25
"""A typical sample this far below the best one: something else had the machine in between."""

BUSY = 0.1
"""Others using this share of the processor: the figures are lower than the machine's own."""


@dataclass(frozen=True)
class Rate:
    """A rate a second, sampled several times.

    Attributes:
        best: the highest sample: what the machine can do when nothing disturbs it.
        median: the middle sample.
        samples: how many there were.
    """

    best: float
    median: float
    samples: int

    @property
    def spread(self) -> float:
        """How far the middle sample lies below the best one, as a share of it."""
        return 1.0 - self.median / self.best


@dataclass(frozen=True)
class ProductRate:
    """Products of matrices: `flops` a second, in `dtype`, by `threads` (None on a GPU).

    The best of several square products; `size` is that one's side.
    """

    dtype: str
    threads: int | None
    size: int
    flops: Rate


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second of memory outside of caches: `kind` is read, write, or copy (both counted)."""

    kind: str
    threads: int | None
    bytes: Rate


@dataclass(frozen=True)
class PageFault:
    """What it costs to touch a page of `page_bytes` for the first time, in seconds a page."""

    page_bytes: int
    best: float
    median: float
    samples: int


@dataclass(frozen=True)
class Surroundings:
    """What else went on while it was measured.

    Attributes:
        others: processor cores that other processes kept busy, on average.
        cores: cores that there are.
        load_average: processes that were ready to run in the minute before; None where unknown.
    """

    others: float
    cores: int
    load_average: float | None

    @property
    def busy(self) -> bool:
        """Whether others used so much that figures are lower than the machine's own."""
        return self.others > BUSY * self.cores


@dataclass(frozen=True)
class Roofline:
    """All that was measured of one device.

    Attributes:
        device: `cpu` or `cuda`.
        name: the device's own name.
        identity: what the figures depend on; another machine, another build of PyTorch or another
            number of threads has others.
        measured: when, UTC, ISO 8601.
        seconds: how long it took.
        chosen_dtype: the format in which Tunesmith computes here unless told otherwise.
        buffer_bytes: of the memory that was read, written and copied; 0 where it was not.
        page_fault: None on a GPU.
    """

    device: str
    name: str
    identity: Mapping[str, str]
    measured: str
    seconds: float
    chosen_dtype: str
    products: tuple[ProductRate, ...]
    bandwidths: tuple[Bandwidth, ...]
    buffer_bytes: int
    page_fault: PageFault | None
    surroundings: Surroundings

    def product(self, dtype: str, threads: int | None) -> ProductRate | None:
        """Return the rate of products in this format by so many threads, if it was measured."""
        found = [p for p in self.products if p.dtype == dtype and p.threads == threads]
        return found[0] if found else None

    @property
    def threads(self) -> int | None:
        """The most threads that were measured; None on a GPU."""
        return max((p.threads for p in self.products if p.threads), default=None)

    @property
    def balances(self) -> dict[str, float]:
        """FLOPs for each byte read at which arithmetic and memory take equally long, by format."""
        most = self.threads
        read = [b.bytes.best for b in self.bandwidths if b.kind == "read" and b.threads == most]
        products = [p for p in self.products if p.threads == most]
        return {p.dtype: p.flops.best / rate for p in products for rate in read[:1]}

    def cautions(self) -> list[str]:
        """Return in sentences why the figures may not be the machine's own."""
        return [*self._disturbed(), *self._threads_that_slow(), *self._slower_format()]

    def _disturbed(self) -> list[str]:
        about, found = self.surroundings, []
        if about.busy:
            found.append(
                f"Other processes used {about.others:.1f} of {about.cores} cores meanwhile: the "
                "figures are lower than this machine's own. Measure again when it is idle."
            )
        elif about.load_average is not None and about.load_average > about.cores:
            found.append(
                f"In the minute before, {about.load_average:.1f} processes shared {about.cores} "
                "cores: measure again if the figures look low."
            )
        unsteady = [p for p in self.products if p.flops.spread > UNSTEADY]
        if unsteady:
            worst = max(unsteady, key=lambda p: p.flops.spread)
            found.append(
                f"The samples differ: half of those in {worst.dtype}{_by(worst.threads)} were "
                f"{worst.flops.spread:.0%} or more below the best one."
            )
        return found

    def _threads_that_slow(self) -> list[str]:
        found, most = [], self.threads
        for one in (p for p in self.products if p.threads == 1):
            all_of_them = self.product(one.dtype, most)
            if most is None or most == 1 or all_of_them is None:
                continue
            if all_of_them.flops.best < one.flops.best:
                found.append(
                    f"In {one.dtype} {most} threads are slower than one: the cores are taken by "
                    "something else, or are not all there. Compare with OMP_NUM_THREADS=1."
                )
        return found

    def _slower_format(self) -> list[str]:
        rates = {p.dtype: p.flops.best for p in self.products if p.threads == self.threads}
        own = rates.get(self.chosen_dtype)
        faster = [dtype for dtype, rate in rates.items() if own and rate > 1.1 * own]
        return [
            f"Tunesmith computes in {self.chosen_dtype} here, by what the device states of itself, "
            f"but {dtype} was {rates[dtype] / own:.1f} times as fast: measure again, and if it "
            f"stays so, set training.precision to {dtype}."
            for dtype in faster
            if own
        ]


def _by(threads: int | None) -> str:
    return "" if threads is None else f" by {threads} thread{'s' * (threads != 1)}"
