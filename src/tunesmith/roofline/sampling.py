"""Takes samples of many pieces of work in turns, and watches what else the machine does.

In turns, so that a moment in which something else runs spoils one sample of each piece and not all
samples of one. The best sample says what the machine can do; how far the middle one lies below it
says how disturbed the measurement was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import psutil
import torch

from tunesmith.roofline.roofline import Rate, Surroundings

_ROUNDS = 3
"""Fewest rounds, even where they take longer than was asked for."""

_TURN = 0.01
"""Seconds of one turn: short work is run several times in it, each time a sample."""


@dataclass(frozen=True)
class Piece:
    """A piece of work to time.

    Attributes:
        run: does it once, and returns when it is done.
        amount: how much it does (FLOPs, bytes), so that amount / seconds is its rate.
        threads: by how many threads of PyTorch; None where they play no part.
    """

    run: Callable[[], object]
    amount: float
    threads: int | None = None


def sample(pieces: Sequence[Piece], seconds: float) -> list[Rate]:
    """Time each piece several times, in turns, for about `seconds` all together.

    Each is run once beforehand, untimed: caches, pools of threads and kernels are warm then.
    """
    rates: list[list[float]] = [[] for _ in pieces]
    for piece in pieces:
        with using_threads(piece.threads):
            piece.run()
    began, rounds = time.perf_counter(), 0
    while rounds < _ROUNDS or time.perf_counter() - began < seconds:
        for piece, found in zip(pieces, rates, strict=True):
            with using_threads(piece.threads):
                found += [piece.amount / taken for taken in _turn(piece.run)]
        rounds += 1
    return [Rate(max(found), median(found), len(found)) for found in rates]


def timed(run: Callable[[], object]) -> float:
    """Return the seconds that `run` took."""
    began = time.perf_counter()
    run()
    return max(time.perf_counter() - began, 1e-9)


def _turn(run: Callable[[], object]) -> Iterator[float]:
    left = _TURN
    while left > 0:
        taken = timed(run)
        left -= taken
        yield taken


@contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads within (None: as many as it does)."""
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Watch:
    """Watches from its making on how much of the processor others use."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._began, self._busy, self._own = time.perf_counter(), _busy(), time.process_time()

    def seen(self) -> Surroundings:
        """Return what went on since."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        others = (_busy() - self._busy) - (time.process_time() - self._own)
        return Surroundings(max(0.0, others / elapsed), os.cpu_count() or 1, self._load)


def _busy() -> float:
    """Seconds that all cores together have worked; what a host took from a guest counts too."""
    times = psutil.cpu_times()._asdict()
    # Linux counts the time of guests within `user` and `nice` already.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(value for name, value in times.items() if name not in idle))
