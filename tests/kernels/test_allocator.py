"""Keeping memory: what was done is said, and nothing is done where it cannot be."""

import json
import subprocess
import sys

import pytest

from tunesmith.kernels import allocator

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
