"""The benchmark of memory: what it keeps of an earlier run, and what it was not fitted to."""

import json
from dataclasses import asdict

from benchmarks.memory import CALIBRATED, CASES, _earlier


def test_cases_that_are_not_asked_for_again_stay_and_others_are_forgotten(tmp_path) -> None:
    budget = next(number for number, case in enumerate(CASES) if case.budget)
    kept = [{**asdict(CASES[2]), "measured": 1}, {**asdict(CASES[budget]), "documents": 9}]
    gone = {**asdict(CASES[0]), "length": 7}
    out = tmp_path / "memory.json"
    out.write_text(json.dumps({"cases": [*kept, gone]}))
    assert _earlier(out) == {2: kept[0], budget: kept[1]}
    assert _earlier(tmp_path / "none.json") == {}


def test_at_least_twelve_cases_are_of_models_that_nothing_was_fitted_to() -> None:
    others = [case for case in CASES if case.model != CALIBRATED and case.budget is None]
    assert len({json.dumps(asdict(case)) for case in others}) >= 12
