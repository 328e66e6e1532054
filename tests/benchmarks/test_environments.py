"""Environments of the peers: what is kept when one does not install, what is published of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.peers import environments
from benchmarks.peers.environments import PEERS, Peer, ensure, last_lines


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What pip is asked to install; it refuses `refused==1`."""
    asked: list[tuple[str, ...]] = []

    def install(python: str, requirements: tuple[str, ...]) -> str | None:
        asked.append(requirements)
        return "ERROR: No matching distribution" if "refused==1" in requirements else None

    monkeypatch.setattr(environments, "_install", install)
    monkeypatch.setattr(environments, "_versions", lambda *_: {"torch": "2.13.0"})
    monkeypatch.setattr(environments, "_remove_broken", lambda _: ())
    monkeypatch.setattr(environments.subprocess, "run", lambda command, **_: _folder(command[-1]))
    return asked


def _folder(path: str) -> None:
    Path(path).mkdir(parents=True, exist_ok=True)


def test_a_peer_that_does_not_install_keeps_its_failure(
    tmp_path: Path, installs: list[tuple[str, ...]]
) -> None:
    peer = Peer("peer", (("refused==1",),))
    found = ensure(peer, tmp_path)
    assert found.python is None
    assert found.failure is not None
    assert found.failure.splitlines() == [
        "$ pip install torch==2.13.0 refused==1",
        "ERROR: No matching distribution",
    ]
    assert ensure(peer, tmp_path) == found
    assert len(installs) == 1


def test_an_older_version_is_tried_and_the_refusal_is_kept(
    tmp_path: Path, installs: list[tuple[str, ...]]
) -> None:
    found = ensure(Peer("peer", (("refused==1",), ("older==1",))), tmp_path)
    assert found.python is not None
    assert found.requirements == ("older==1",)
    assert "No matching distribution" in (found.failure or "")


def test_a_peer_with_another_pin_is_made_anew(
    tmp_path: Path, installs: list[tuple[str, ...]]
) -> None:
    ensure(Peer("peer", (("one==1",),)), tmp_path)
    ensure(Peer("peer", (("one==2",),)), tmp_path)
    assert installs == [("torch==2.13.0", "one==1"), ("torch==2.13.0", "one==2")]


def test_every_requirement_is_pinned() -> None:
    loose = [
        requirement
        for peer in PEERS.values()
        for attempt in peer.attempts
        for requirement in attempt
        if "==" not in requirement
    ]
    assert loose == []


def test_published_lines_hold_no_addresses_and_no_paths() -> None:
    said = (
        "Looking in indexes: https://packages.example/simple\n"
        "  Downloading thing.whl\n"
        '  File "/home/someone/.envs/peer/lib/torch/nn.py", line 3\n'
        "see https://packages.example/thing for more\n"
        "ValueError: no GPU\n"
    )
    kept = last_lines(said)
    assert kept.splitlines() == [
        ' File "…/nn.py", line 3',
        "see <address> for more",
        "ValueError: no GPU",
    ]
