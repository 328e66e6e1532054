"""The committed reference says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.cli.reference import main, pages

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", ["cli.md", "recipe.md"])
def test_a_committed_page_is_what_would_be_generated(name: str) -> None:
    committed = (FOLDER / name).read_text(encoding="utf-8")
    assert committed == pages()[name], "run: python -m tunesmith.cli.reference"


def test_the_check_fails_until_the_pages_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
