"""Measures a device: the whole roofline, or in half a second the one rate that a run needs.

measure(device)              formats × threads, memory, page faults     about 12 s
brief_rate(device, dtype)    products in one format, as training runs   about 0.5 s
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tunesmith.kernels.precision import fast_dtype
from tunesmith.roofline.products import product_rates
from tunesmith.roofline.roofline import ProductRate, Roofline, Surroundings
from tunesmith.roofline.sampling import Watch
from tunesmith.roofline.traffic import bandwidths, buffer_bytes, page_fault

DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Effort:
    """How much to put into a measurement.

    Attributes:
        products, traffic, faults: seconds for each part, about.
        largest: most rows of a matrix; None: as many as suit the device.
        buffer: fewest bytes of a buffer of memory.
    """

    products: float = 6.0
    traffic: float = 4.0
    faults: float = 0.5
    largest: int | None = None
    buffer: int = 256 << 20


BRIEF_SECONDS = 0.5


def measure(
    device: torch.device, name: str, identity: Mapping[str, str], effort: Effort | None = None
) -> Roofline:
    """Measure everything of a device.

    On a CPU products and bandwidths are measured with one thread and with as many as PyTorch uses
    in this process.

    Args:
        name: the device's own name.
        identity: what the figures depend on, to be kept with them.
    """
    effort = effort or Effort()
    began, watch = time.perf_counter(), Watch()
    on_cpu = device.type == "cpu"
    threads = _threads(device)
    size = buffer_bytes(device, effort.buffer)
    products = product_rates(
        device,
        DTYPES,
        threads,
        seconds=effort.products,
        largest=effort.largest or _largest(device),
    )
    traffic = bandwidths(device, threads, seconds=effort.traffic, size=size)
    fault = page_fault(effort.faults) if on_cpu else None
    return Roofline(
        device=device.type,
        name=name,
        identity=dict(identity),
        measured=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        seconds=time.perf_counter() - began,
        chosen_dtype=str(fast_dtype(device)).removeprefix("torch."),
        products=tuple(products),
        bandwidths=tuple(traffic),
        buffer_bytes=size,
        page_fault=fault,
        surroundings=watch.seen(),
    )


def brief_rate(
    device: torch.device, dtype: torch.dtype, *, seconds: float = BRIEF_SECONDS
) -> tuple[ProductRate, Surroundings]:
    """Measure products in one format by as many threads as PyTorch uses now; best of several."""
    (threads,), watch = _threads(device)[-1:], Watch()
    (rate,) = product_rates(
        device, [dtype], [threads], seconds=seconds, largest=_largest(device) // 2
    )
    return rate, watch.seen()


def _threads(device: torch.device) -> list[int | None]:
    if device.type != "cpu":
        return [None]
    return list(dict.fromkeys([1, torch.get_num_threads()]))


def _largest(device: torch.device) -> int:
    """Matrices that fill the device without filling its memory."""
    return 4096 if device.type == "cpu" else 8192
