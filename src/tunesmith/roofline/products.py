"""Measures how many FLOPs a second a device does in products of square matrices.

The size grows until one product takes long enough to be timed; the rate is that of the best size,
so that it is a roof: no layer's own shapes can be expected to reach it. Operands and result lie in
buffers that are there before, so that no memory is fetched from the system meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tunesmith.roofline.roofline import ProductRate
from tunesmith.roofline.sampling import Piece, sample, timed, using_threads

_SMALLEST = 256
_LONG = 0.02
"""Seconds of a product after which no larger one is tried: eight times as long is too long."""


def product_rates(
    device: torch.device,
    dtypes: Sequence[torch.dtype],
    threads: Sequence[int | None],
    *,
    seconds: float,
    largest: int,
) -> list[ProductRate]:
    """Return the rate in each format by each number of threads, in that order.

    Args:
        seconds: how long to take for all of them together, about.
        largest: most rows of a matrix.
    """
    keys = [(dtype, count) for dtype in dtypes for count in threads]
    sized = [(key, size, piece) for key in keys for size, piece in _pieces(device, *key, largest)]
    rates = sample([piece for *_, piece in sized], seconds)
    best: dict[tuple[torch.dtype, int | None], ProductRate] = {}
    for (key, size, _), rate in zip(sized, rates, strict=True):
        if key not in best or rate.best > best[key].flops.best:
            best[key] = ProductRate(str(key[0]).removeprefix("torch."), key[1], size, rate)
    return [best[key] for key in keys]


def _pieces(
    device: torch.device, dtype: torch.dtype, threads: int | None, largest: int
) -> list[tuple[int, Piece]]:
    """Products of growing size, up to the first that takes long."""
    found = []
    size = min(_SMALLEST, largest)
    while size <= largest:
        run = _product(device, dtype, size)
        found.append((size, Piece(run, 2.0 * size**3, threads)))
        with using_threads(threads):
            run()
            if min(timed(run) for _ in range(3)) > _LONG:  # one alone may have been disturbed
                break
        size *= 2
    return found


def _product(device: torch.device, dtype: torch.dtype, size: int) -> Callable[[], None]:
    # Numbers of its own generator: a run's random draws are not to depend on a measurement.
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.rand(size, size, generator=generator, device=device) for _ in range(2))
    a, b, out = a.to(dtype), b.to(dtype), torch.empty(size, size, dtype=dtype, device=device)

    def run() -> None:
        with torch.no_grad():
            torch.mm(a, b.T, out=out)
        wait(out)

    return run


def wait(tensor: Tensor) -> None:
    """Return when all work queued on the tensor's device is done."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
