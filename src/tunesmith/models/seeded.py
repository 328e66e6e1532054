"""The one place that touches the global random generators.

    with seeded(seed):
        ...        # torch, NumPy and Python draw from generators that start at `seed`
    # and all of them go on as if nothing had been drawn

Initialisation in transformers and PEFT, and dropout, draw from the global generators; whoever
causes such a draw does it inside this context, so that one seed gives one result whatever was
drawn before it. Everything else in Tunesmith passes generators as arguments.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start the global generators at `seed`; on leaving, put them back where they were.

    Args:
        seed: any integer from 0 to 2**63 - 1; NumPy's generator takes its low 32 bits.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
