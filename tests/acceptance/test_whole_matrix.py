"""Every technique on every task with every family, and the table of what came of it.

    make matrix     runs what the last call left (outcomes of this code are kept), then the table

A cell is trained, or refused for the reason that the registry gives beforehand. What was trained
is held to what `test_matrix.py` holds its sample to.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tests.acceptance.outcomes import KEPT, Outcome, Outcomes
from tests.acceptance.test_matrix import Finished, based_on, check, lay_out
from tests.tiny import DECODERS, ENCODER_DECODERS, ENCODERS, MIXTURES, tiny_model_folder

from tunesmith.errors import TunesmithError
from tunesmith.models.resolve import resolve
from tunesmith.registry import TASKS, TECHNIQUES
from tunesmith.runs.build import refuse

FAMILIES = (*DECODERS, *MIXTURES, *ENCODERS, *ENCODER_DECODERS)
CELLS = itertools.product(TECHNIQUES.names(), TASKS.names(), FAMILIES)
OUTCOMES = Outcomes(KEPT)
LEFT = [cell for cell in CELLS if not OUTCOMES.settled(cell)]


SIZES = {"gemma3": {"sliding_window": 64}}
"""Else no answer would see virtual tokens that stand before the prompt."""


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Callable[[str], Path]:
    """Return the folder of a tiny model of a family, made once."""
    folder = tmp_path_factory.mktemp("models")
    return cache(lambda family: tiny_model_folder(folder, family, **SIZES.get(family, {})))


def reason_beforehand(technique: str, task: str, folder: Path) -> str | None:
    """Return why the registry refuses a cell, or None where it allows it."""
    if task == "multitask":  # what it is made of stands in the recipe
        return None
    try:
        refuse(TECHNIQUES.get(technique)(), TASKS.get(task)(), resolve(str(folder)))
    except TunesmithError as error:
        return error.what
    return None


def run(
    here: Path, command: Callable, model: Path, technique: str, task: str, family: str
) -> tuple[str, str]:
    """Train one cell and check it; return what came of it and why."""
    expected = reason_beforehand(technique, task, model)
    lay_out(here, technique, task, model, family)
    said = command("train", "recipe.yaml", "--name", "cell", "--json")
    if said.code == 2:
        found = said.document["error"]["what"]
        assert not (here / "runs").exists()
        assert expected is None or found == expected
        named = "The model" if found.startswith(str(model)) else "the model"
        return "refused", found.replace(str(model), named)
    assert (said.code, expected) == (0, None), said.out + said.err
    check(Finished(technique, task, family, model, here / "runs" / "cell", said.out), command)
    return "trained", ""


@pytest.mark.matrix
@pytest.mark.parametrize(("technique", "task", "family"), LEFT)
def test_a_cell_trains_or_is_refused_with_a_reason(
    here, command, models, monkeypatch, technique, task, family
) -> None:
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)
    began = time.monotonic()
    came = ("failed", "")
    try:
        model = models(based_on(task, family))
        came = run(here, command, model, technique, task, family)
    except AssertionError as error:
        came = ("failed", str(error).splitlines()[0])
        raise
    finally:
        OUTCOMES.add(Outcome(technique, task, family, *came, time.monotonic() - began))
