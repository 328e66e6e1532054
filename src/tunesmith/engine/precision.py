"""In which number format a model computes: float32, or bfloat16 where that is faster.

What learns is always kept in float32. With bfloat16 the frozen weights are stored in it, and matrix
products run in it through autocast; norms, losses and the optimiser stay in float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from tunesmith.kernels.precision import fast_dtype

Precision = Literal["auto", "float32", "bfloat16"]


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the format to compute in; `auto` takes bfloat16 where the device is fast at it."""
    if precision == "auto":
        return fast_dtype(device)
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def computing(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which forward passes run."""
    if dtype == torch.bfloat16:
        return torch.autocast(device.type, dtype=dtype)
    return nullcontext()
