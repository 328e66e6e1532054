"""Keep big blocks of memory in the process, so that each large tensor is not a page fault a page.

glibc hands blocks of more than 32 MiB back to the kernel when they are freed, and smaller ones
often; the next tensor of that size is then mapped and cleared anew, page by page. In training the
same sizes return every step, and on a processor whose products are fast this is the largest single
cost. `reuse_memory` tells glibc to keep what it has (`mallopt`), and reserves room in huge pages
where the kernel grants them on request. It changes the whole process, so it is called when an
engine is made and never at import, and it says what it did.

Nothing here knows tensors: PyTorch takes its CPU memory from the C library's allocator.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -2, -3, -4, -8
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2 << 20
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True)
class MemoryReuse:
    """What `reuse_memory` did.

    Attributes:
        kept: freed blocks stay in the process.
        huge_pages_bytes: room reserved in huge pages (0: none). Reserved is not used: a page
            counts only once it is written.
        reason: a sentence for the run's log; why not, where nothing was done.
    """

    kept: bool
    huge_pages_bytes: int
    reason: str


@cache
def reuse_memory(reserve_bytes: int | None = None) -> MemoryReuse:
    """Let the C library keep freed memory, in huge pages where it can be; once a process.

    Args:
        reserve_bytes: address space to advise as huge pages; None takes half of the memory that
            is available now, at most 16 GiB.

    Linux with glibc only; elsewhere nothing is done and the reason says so. Never raises.
    """
    if not sys.platform.startswith("linux"):
        return MemoryReuse(False, 0, f"memory is not kept: {sys.platform} has no mallopt")
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "mallopt"):
        return MemoryReuse(False, 0, "memory is not kept: the C library is not glibc")
    settings = {
        _MMAP_MAX: 0,
        _TRIM_THRESHOLD: -1,
        _TOP_PAD: 64 << 20,
        _ARENA_MAX: 1,
    }
    refused = [option for option, value in settings.items() if not libc.mallopt(option, value)]
    if refused:
        return MemoryReuse(False, 0, f"memory is not kept: mallopt refused options {refused}")
    return _reserve_huge_pages(libc, _available() if reserve_bytes is None else reserve_bytes)


def _reserve_huge_pages(libc: ctypes.CDLL, size: int) -> MemoryReuse:
    """Grow the heap once, advise it as huge pages, and give it back to the allocator."""
    kept = "freed memory is kept in the process"
    mode = _THP.read_text() if _THP.exists() else ""
    if "[always]" in mode:
        return MemoryReuse(True, 0, f"{kept}; huge pages are always on")
    if "[madvise]" not in mode:
        return MemoryReuse(True, 0, f"{kept}; this kernel gives no huge pages")
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    address = libc.malloc(size) if size >= _HUGE_PAGE else None
    if not address:
        return MemoryReuse(True, 0, f"{kept}; no room for huge pages")
    start = -(-address // _HUGE_PAGE) * _HUGE_PAGE
    length = (address + size - start) // _HUGE_PAGE * _HUGE_PAGE
    advised = libc.madvise(start, length, _MADV_HUGEPAGE) == 0
    libc.free(address)
    if not advised:
        return MemoryReuse(True, 0, f"{kept}; the kernel refused huge pages")
    return MemoryReuse(True, length, f"{kept}, in huge pages")


def _available() -> int:
    """Half of the memory that is available now, at most 16 GiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(int(line.split()[1]) * 1024 // 2, 16 << 30)
    return 0
