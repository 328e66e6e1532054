"""Keeping memory: what was done is said, and nothing is done where it cannot be."""

import json
import subprocess
import sys

import pytest

from tunesmith.kernels import allocator
from tunesmith.kernels.tensor_memory import Served

FAULTS = """
import json, resource, torch
from tunesmith.kernels.allocator import reuse_memory
done = reuse_memory(1 << 30) if {keep} else None
def step():
    return [torch.ones(12 << 20) for _ in range(2)]
for _ in range(6):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps([faults, done.kept if done else False, done.reason if done else ""]))
"""


def measure(keep: bool) -> tuple[int, bool, str]:
    code = FAULTS.format(keep=keep)
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    faults, kept, reason = json.loads(answer.stdout)
    return faults, kept, reason


def test_large_tensors_cause_no_page_faults_once_memory_is_kept() -> None:
    faults, kept, reason = measure(keep=True)
    without, _, _ = measure(keep=False)
    assert reason
    assert faults < without / 10 if kept else faults > 0


def test_other_systems_are_left_alone_and_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    done = allocator.reuse_memory.__wrapped__()
    assert not done.kept
    assert done.huge_pages_bytes == 0
    assert "darwin" in done.reason


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        """A C library without glibc's marks."""

    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: Musl())
    done = allocator.reuse_memory.__wrapped__()
    assert not done.kept
    assert "glibc" in done.reason


LEFT = """
import ctypes, json, psutil
from tunesmith.kernels.allocator import give_back_heap, reuse_memory
reuse_memory(1 << 28)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(1 << 20) for _ in range(100)]
for block in blocks:
    ctypes.memset(block, 1, 1 << 20)
for block in blocks[:-1]:  # the last one keeps the heap from shrinking
    libc.free(block)
before = psutil.Process().memory_info().rss
give_back_heap()
print(json.dumps(before - psutil.Process().memory_info().rss))
"""


def test_what_lies_idle_in_the_heap_can_be_given_back() -> None:
    command = [sys.executable, "-c", LEFT]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) > 90 << 20


def test_without_memory_of_their_own_tensors_stay_in_the_heap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = Served(False, "no C++ compiler was found")
    monkeypatch.setattr(allocator, "serve_tensors", lambda size, huge: refused)
    done = allocator.reuse_memory.__wrapped__(1 << 22)
    assert (done.kept, done.exact) == (True, False)
    assert done.reason.endswith("no C++ compiler was found")
