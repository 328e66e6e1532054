"""What is kept in the cache shares one budget; what was not read for longest makes room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunesmith.models.cache_space import budget_bytes, bytes_of, make_room, shelf


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Three things of 100 bytes, of both kinds, the last one read last."""
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    places = {}
    for age, (kind, name) in enumerate([("frozen", "a"), ("encoded", "b"), ("frozen", "c")]):
        place = shelf(kind) / name
        place.mkdir(parents=True)
        (place / "data").write_bytes(bytes(90))
        (place / "about.json").write_bytes(bytes(10))
        os.utime(place, (1000 + age, 1000 + age))
        places[name] = place
    return places


def there(kept: dict[str, Path]) -> str:
    return "".join(name for name, place in kept.items() if bytes_of(place) == 100)


def test_nothing_goes_while_there_is_room(kept):
    make_room(100, 400)
    assert there(kept) == "abc"


def test_what_was_not_read_for_longest_goes_first_whatever_its_kind(kept):
    make_room(100, 300)
    assert there(kept) == "bc"
    os.utime(kept["b"])  # has been read now
    make_room(100, 200)
    assert there(kept) == "b"


def test_what_is_spared_stays(kept):
    make_room(100, 200, spare=[kept["a"]])
    assert there(kept) == "a"


def test_a_stated_budget_is_in_gigabytes_and_auto_is_half_of_what_is_free(kept):
    assert budget_bytes(0.5) == 500_000_000
    usage = os.statvfs(shelf("frozen"))
    free = usage.f_bavail * usage.f_frsize
    assert budget_bytes("auto") == pytest.approx((free + 300) / 2, rel=0.1)
