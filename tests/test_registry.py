"""What counts as a member of a kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.registry import Registry


@pytest.fixture
def kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """A kind with one member, its contract, and a package of what members share."""
    package = tmp_path / "grown_kind"
    (package / "parts").mkdir(parents=True)
    for name in ("__init__.py", "base.py", "plain.py", "parts/__init__.py", "parts/shared.py"):
        (package / name).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return Registry("thing", "grown_kind")


def test_the_contract_and_what_members_share_are_no_members(kind: Registry[Any]) -> None:
    assert kind.names() == ("plain",)
