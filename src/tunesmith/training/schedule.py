"""The learning rate at each step: warm-up, then constant, linear or cosine decay to zero."""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["constant", "linear", "cosine"]


def learning_rate(step: int, *, steps: int, peak: float, shape: Shape, warmup: float) -> float:
    """Return the learning rate of optimiser step `step` (counted from 0).

    Args:
        steps: the number of steps of the run.
        peak: the highest learning rate.
        warmup: the share of steps over which it rises linearly; the peak is reached on the last
            of them, so that no step has a rate of 0. Cosine: Loshchilov & Hutter 2017.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    if shape == "constant":
        return peak
    done = (step - rising) / max(1, steps - rising)
    if shape == "linear":
        return peak * (1 - done)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
