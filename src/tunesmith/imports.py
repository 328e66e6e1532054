"""Imports of large packages, without looking for garbage all the while.

What modules are made of stays. The collector would go through all of it again and again, the more
often the more there is: a third of the time of an import, once torch is there. Imports nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Within, the garbage collector rests; afterwards it is as it was."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
