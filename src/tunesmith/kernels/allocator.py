"""Keep big blocks of memory in the process, so that each large tensor is not a page fault a page.

glibc hands blocks of more than 32 MiB back to the kernel when they are freed, and smaller ones
often; the next tensor of that size is then mapped and cleared anew, page by page. In training the
same sizes return every step, and on a processor whose products are fast this is the largest single
cost. `reuse_memory` tells glibc to keep what it has (`mallopt`), and serves tensors from a range of
their own (`tensor_memory.py`), in huge pages where the kernel grants them on request. Where that
range cannot be had, tensors stay in glibc's heap. It changes the whole process, so it is called
when an engine is made and never at import, and it says what it did.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from tunesmith.kernels.tensor_memory import serve_tensors

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
        exact: what a tensor lets go fits the next of its size, so that nothing lies idle between.
    """

    kept: bool
    huge_pages_bytes: int
    reason: str
    exact: bool = False


@cache
def reuse_memory(reserve_bytes: int | None = None) -> MemoryReuse:
    """Let the C library keep freed memory, in huge pages where it can be; once a process.

    Args:
        reserve_bytes: addresses for tensors; None takes as many as the machine has memory. Where
            tensors stay in glibc's heap, what of it is advised as huge pages: half of the memory
            that is available now, at most 16 GiB.

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
    mode = _THP.read_text() if _THP.exists() else ""
    advise = "[madvise]" in mode
    size = _physical() if reserve_bytes is None else reserve_bytes
    served = serve_tensors(size, advise)
    if served.done:
        pages = "; huge pages are always on" if "[always]" in mode else ""
        kept = f"freed memory is kept for tensors{', in huge pages' if advise else pages}"
        return MemoryReuse(True, size if advise else 0, kept, exact=True)
    found = _reserve_huge_pages(libc, mode, _available() if reserve_bytes is None else size)
    return replace(found, reason=f"{found.reason}; holes stay between tensors: {served.reason}")


def give_back_heap() -> None:
    """Give the kernel what lies idle in glibc's heap, in which tensors were before `reuse_memory`.

    Only where that has kept memory; it would stay in the process, and nothing would need it.
    """
    ctypes.CDLL(None).malloc_trim(0)


def _reserve_huge_pages(libc: ctypes.CDLL, mode: str, size: int) -> MemoryReuse:
    """Grow the heap once, advise it as huge pages, and give it back to the allocator."""
    kept = "freed memory is kept in the process"
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


def _physical() -> int:
    """All memory of the machine, at most half of the addresses that this process may have."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return size if limit == resource.RLIM_INFINITY else min(size, limit // 2)


def _available() -> int:
    """Half of the memory that is available now, at most 16 GiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(int(line.split()[1]) * 1024 // 2, 16 << 30)
    return 0
