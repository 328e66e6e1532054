"""bfloat16 is chosen by what the processor states."""

from pathlib import Path

import pytest
import torch

from tunesmith.kernels import precision


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", torch.float32),
        ("flags\t\t: fpu avx512f avx512_bf16", torch.bfloat16),
        ("flags\t\t: fpu amx_bf16 amx_tile", torch.bfloat16),
        ("Features\t: fp asimd bf16", torch.bfloat16),
        ("model name\t: nothing said", torch.float32),
    ],
)
def test_processor_features_decide(
    line: str, expected: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")
    precision.cpu_features.cache_clear()
    try:
        assert precision.fast_dtype("cpu") == expected
    finally:
        precision.cpu_features.cache_clear()


def test_an_unknown_system_computes_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "missing")
    precision.cpu_features.cache_clear()
    assert precision.fast_dtype("cpu") == torch.float32
    precision.cpu_features.cache_clear()
