"""What an earlier process wrote, asked for more than it wrote."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import InputError
from tunesmith.stored import Stored, built

FILE = Path("run/record.json")


@dataclass
class Noted:
    step: int
    inside: dict[str, Any]
    later: float = 0.0


def test_what_is_missing_is_said_with_its_file_also_inside() -> None:
    stored = Stored({"a": {"b": {"c": 1}}}, FILE)
    assert stored["a"]["b"]["c"] == 1
    with pytest.raises(
        InputError, match=r"^run/record\.json: It lacks 'd', .* an older one"
    ) as said:
        stored["a"]["b"]["d"]
    assert said.value.exit_code == 2
    assert said.value.fix is not None
    assert said.value.fix.startswith("Start a new run")


def test_who_does_not_insist_is_answered_as_by_any_mapping() -> None:
    stored = Stored({"a": 1}, FILE)
    assert stored.get("b", 2) == 2
    assert "b" not in stored
    assert json.loads(json.dumps(stored)) == copy.deepcopy(stored) == {"a": 1}


def test_a_dataclass_is_built_of_all_its_fields_and_of_nothing_else() -> None:
    whole = {"step": 1, "inside": {"a": 2}, "later": 3.0}
    found = built(Noted, Stored(whole, FILE))
    assert found == Noted(1, {"a": 2}, 3.0)
    assert asdict(found) == whole
    with pytest.raises(InputError, match="It lacks 'later'"):
        built(Noted, Stored({"step": 1, "inside": {}}, FILE))
    with pytest.raises(InputError, match=r"It holds 'colour', which this version .* a newer one"):
        built(Noted, whole | {"colour": "red"})
