"""The compiled kernels are built once, for this processor, and missed without harm."""

from pathlib import Path

import pytest
import torch

from tunesmith.kernels import native


def fresh() -> native.Native:
    return native.native.__wrapped__()


def test_the_library_is_built_once_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    first = fresh()
    assert first.library is not None, first.reason
    (built,) = (tmp_path / "kernels").iterdir()
    before = built.stat().st_mtime_ns
    assert fresh().library is not None
    assert built.stat().st_mtime_ns == before


def test_a_header_that_changed_is_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    source, header = tmp_path / "number.c", tmp_path / "number.h"
    source.write_text('#include "number.h"\nlong number(void) { return NUMBER; }\n')
    said = []
    for number in (3, 4):
        header.write_text(f"#define NUMBER {number}\n")
        said.append(native.built(source).library.number())
    assert said == [3, 4]


def test_without_a_compiler_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    assert fresh() == native.Native(None, "no C compiler was found")


def test_a_compiler_that_fails_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    missing = fresh()
    assert missing.library is None
    assert missing.reason.startswith("the C compiler failed")


def test_a_cache_that_cannot_be_written_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("TUNESMITH_HOME", str(blocked))
    assert fresh().library is not None


@pytest.mark.parametrize(
    "tensor", [torch.zeros(2, 2, dtype=torch.float64), torch.zeros(4, 4)[:, :2]]
)
def test_other_formats_and_layouts_take_the_plain_path(tensor: torch.Tensor) -> None:
    assert not native.usable(tensor)
