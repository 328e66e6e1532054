"""In which number format a model computes: float32, or bfloat16 where that is faster.

What learns is always kept in float32. With bfloat16 the frozen weights are stored in it, and matrix
products run in it through autocast; norms, losses and the optimiser stay in float32. With float8
all is as with bfloat16, but for the products of `float8.py`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from tunesmith.errors import RecipeError
from tunesmith.kernels.precision import fast_dtype, refuses_float8

Precision = Literal["auto", "float32", "bfloat16", "float8"]


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the format to compute in; `auto` takes bfloat16 where the device is fast at it.

    Raises:
        RecipeError: the device does not multiply 8-bit numbers.
    """
    reason = refuses_float8(device) if precision == "float8" else None
    if reason:
        raise RecipeError(
            f"This device does not multiply 8-bit numbers: {reason}.",
            where="training.precision",
            fix="Leave it out: `auto` takes the format that this device is fast at.",
        )
    if precision == "auto":
        return fast_dtype(device)
    return torch.float32 if precision == "float32" else torch.bfloat16


def computing(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which forward passes run."""
    if dtype == torch.bfloat16:
        return torch.autocast(device.type, dtype=dtype)
    return nullcontext()
