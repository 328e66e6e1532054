"""Memory of PyTorch's CPU tensors from one range of addresses, in which no block is wasted.

    serve_tensors(size, huge_pages) ──> Served(done, reason)

What a tensor lets go fits the next of its size exactly; under the C library it does not, and the
process grows from step to step although nothing more is held (`tensor_memory.cpp` says why).
Built at first use, against the headers of the installed PyTorch. Where that is not possible,
tensors stay with the C library and the reason says so. It knows no tensors, only sizes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tunesmith.kernels.native import built

SOURCE = Path(__file__).with_name("tensor_memory.cpp")


@dataclass(frozen=True)
class Served:
    """What `serve_tensors` did.

    Attributes:
        done: tensors take their memory from a range of addresses of their own.
        reason: why not; empty where it is done.
    """

    done: bool
    reason: str = ""


@cache
def serve_tensors(size: int, huge_pages: bool) -> Served:
    """Serve tensors that are made from now on from `size` bytes of addresses; once a process.

    Addresses are no memory: a page counts once it is written. A tensor that finds no room there
    is PyTorch's own allocator's. Never raises.

    Args:
        huge_pages: ask the kernel for them.
    """
    found = built(SOURCE)
    library = found.library
    if library is None:
        return Served(False, found.reason)
    for name in ("tensor_memory_in_use", "tensor_memory_touched", "tensor_memory_idle"):
        getattr(library, name).restype = ctypes.c_uint64
    if not library.tensor_memory_begin(ctypes.c_uint64(size), int(huge_pages)):
        return Served(False, "the kernel gave no range of addresses")
    _range.append(library)
    return Served(True)


def bytes_in_use() -> int:
    """Return the bytes that tensors hold of their range now; 0 where they are not served."""
    return int(_range[0].tensor_memory_in_use()) if _range else 0


def bytes_touched() -> int:
    """Return the bytes below the highest place that a tensor ever had; 0 as above."""
    return int(_range[0].tensor_memory_touched()) if _range else 0


def bytes_idle() -> int:
    """Return the bytes that the process holds in the range and no tensor does; 0 as above.

    What a tensor let go without ever having been written is not among them.
    """
    return int(_range[0].tensor_memory_idle()) if _range else 0


_range: list[ctypes.CDLL] = []
"""The library that serves this process's tensors, once it does."""
