"""What docs/design.md draws is what import-linter enforces, and all that there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import tunesmith

ROOT = Path(__file__).parents[2]
PACKAGE = Path(tunesmith.__file__).parent


def drawn() -> list[list[str]]:
    """Return the rows of the table of packages, the lowest first."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = text.partition("| package | what is there |")[2].partition("\n\n")[0]
    firsts = (line.split("|")[1] for line in table.splitlines()[2:])
    return [re.findall(r"`(\w+)`", first) for first in firsts]


def test_the_house_is_drawn_as_it_is_enforced() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (house, *_) = settings["tool"]["importlinter"]["contracts"]
    assert [name for row in drawn() for name in row] == house["layers"][::-1]


def test_every_package_is_drawn() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    own = {name for name in there if not name.startswith("__")}
    assert own == {name for row in drawn() for name in row}
