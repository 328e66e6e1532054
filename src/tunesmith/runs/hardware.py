"""What a run was made with: processor, threads, versions. A resumed run is compared with it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import tunesmith

_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "neon", "sve")
_PACKAGES = ("torch", "transformers", "peft", "datasets", "safetensors", "numpy", "scikit-learn")


def hardware() -> dict[str, Any]:
    """Return processor, cores, threads, instruction sets, and the GPU if there is one."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "features": _features(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, Tunesmith and what it stands on."""
    own = {"python": platform.python_version(), "tunesmith": tunesmith.__version__}
    return own | {package: version(package) for package in _PACKAGES}


def differs(then: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return a sentence on why a resumed run cannot be bit-identical here, or None."""
    changed = [
        f"{key} {then.get(key)} → {now.get(key)}"
        for key in ("capability", "features", "threads", "gpu")
        if then.get(key) != now.get(key)
    ]
    if not changed:
        return None
    return (
        "This machine is not the one that the run began on ("
        + "; ".join(changed)
        + "): it goes on correctly, but not bit for bit as it would have there."
    )


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _features() -> list[str]:
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    return [feature for feature in _FEATURES if feature in flags]


def _cpuinfo(key: str) -> str | None:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None
