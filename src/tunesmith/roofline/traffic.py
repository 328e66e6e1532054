"""Measures memory: how fast it is read, written and copied, and what a fresh page costs.

Bytes are those that the program asks for, as the STREAM benchmark counts them (McCalpin 1995): a
copy reads and writes each byte once. Buffers are several times as large as the last cache, so
that nothing of them is still there when they are visited again.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np
import psutil
import torch
from torch import Tensor

from tunesmith.roofline.products import wait
from tunesmith.roofline.roofline import Bandwidth, PageFault
from tunesmith.roofline.sampling import Piece, sample, timed

_CACHES = 4
"""How many times as large as the last cache a buffer is."""

_LARGEST = 1 << 30
_FRESH_BYTES = 16 << 20
_FRESH_SAMPLES = 5


def buffer_bytes(device: torch.device, least: int) -> int:
    """Return how large a buffer must be to lie outside of caches, and may be to fit in memory."""
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[0]
        cache = torch.cuda.get_device_properties(device).L2_cache_size
    else:
        available = psutil.virtual_memory().available
        cache = _last_cache()
    wanted = min(max(least, _CACHES * cache), _LARGEST)
    return max(1 << 20, min(wanted, available // 8)) // 8 * 8


def bandwidths(
    device: torch.device, threads: Sequence[int | None], *, seconds: float, size: int
) -> list[Bandwidth]:
    """Return bytes a second read, written and copied, by each number of threads.

    Args:
        seconds: how long to take for all of them together, about.
        size: bytes of a buffer.
    """
    source = torch.ones(size // 4, device=device)
    target = torch.zeros(size // 4, device=device)
    work: dict[str, tuple[int, Callable[[], object]]] = {
        "read": (size, lambda: source.sum()),
        "write": (size, lambda: target.fill_(1.0)),
        "copy": (2 * size, lambda: target.copy_(source)),
    }
    keys = [(kind, count) for count in threads for kind in work]
    pieces = [Piece(_done(work[kind][1], target), work[kind][0], count) for kind, count in keys]
    rates = sample(pieces, seconds)
    return [Bandwidth(kind, count, r) for (kind, count), r in zip(keys, rates, strict=True)]


def page_fault(seconds: float) -> PageFault:
    """Return what the first touch of a page of ordinary size costs, by one thread.

    A fresh mapping is touched once in each page, twice over; the difference is the cost of the
    faults: the system finds a page, clears it and enters it into the process's table.
    """
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < _FRESH_SAMPLES or time.perf_counter() - began < seconds:
        found.append(_fault())
    return PageFault(mmap.PAGESIZE, min(found), median(found), len(found))


def _fault() -> float:
    with mmap.mmap(-1, _FRESH_BYTES) as fresh:
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            fresh.madvise(mmap.MADV_NOHUGEPAGE)
        pages = np.frombuffer(fresh, dtype=np.uint8)[:: mmap.PAGESIZE]
        first, again = (timed(partial(pages.fill, value)) for value in (1, 2))
        count = len(pages)
        del pages  # it holds the mapping open
    return max(first - again, 1e-12) / count


def _done(run: Callable[[], object], tensor: Tensor) -> Callable[[], None]:
    def finished() -> None:
        with torch.no_grad():
            run()
        wait(tensor)

    return finished


def _last_cache() -> int:
    """Bytes of the largest cache; 0 where the system does not say."""
    names = ("SC_LEVEL3_CACHE_SIZE", "SC_LEVEL2_CACHE_SIZE")
    known = [os.sysconf(name) for name in names if name in getattr(os, "sysconf_names", {})]
    return max([0, *known])
