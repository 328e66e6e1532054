"""The run directory: whose name it has, and what becomes of one whose process was killed early."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from tunesmith.errors import InputError, RunError
from tunesmith.runs.folder import RunFolder

FORK = multiprocessing.get_context("fork")


def _killed(runs: Path, *, after_recipe: bool) -> None:
    with RunFolder.creating(runs, "x", numbered=False) as folder:
        if after_recipe:
            folder.write(folder.recipe, "model: m\n")
            (folder.path / ".record.json.part").write_text("{")
        os.kill(os.getpid(), signal.SIGKILL)


def kill_while_preparing(runs: Path, *, after_recipe: bool = False) -> None:
    process = FORK.Process(target=_killed, args=(runs,), kwargs={"after_recipe": after_recipe})
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (runs / "x" / ".lock").exists()


@pytest.mark.parametrize("after_recipe", [False, True])
def test_the_name_of_a_run_that_was_killed_before_it_began_is_free(tmp_path, after_recipe) -> None:
    kill_while_preparing(tmp_path, after_recipe=after_recipe)
    with RunFolder.creating(tmp_path, "x", numbered=False) as folder:
        folder.write(folder.recipe, "model: other\n")
        folder.write_json(folder.record, {"schema_version": 1})
    assert RunFolder.open("x", tmp_path).recipe.read_text() == "model: other\n"


def test_a_numbered_name_takes_it_over_as_well(tmp_path) -> None:
    kill_while_preparing(tmp_path)
    (tmp_path / "x").rename(tmp_path / "job-1")
    with RunFolder.creating(tmp_path, "job", numbered=True) as folder:
        assert folder.path.name == "job-1"


def test_one_that_a_living_process_prepares_is_left_alone(tmp_path) -> None:
    with RunFolder.creating(tmp_path, "job", numbered=True) as first:
        with RunFolder.creating(tmp_path, "job", numbered=True) as second:
            assert [first.path.name, second.path.name] == ["job-1", "job-2"]
        with (
            pytest.raises(RunError, match="Another process is at work"),
            RunFolder.creating(tmp_path, "job-1", numbered=False),
        ):
            pass


@pytest.mark.parametrize("mine", ["notes.txt", "record.json", "recipe.yaml"])
def test_a_folder_with_anything_else_in_it_is_never_taken(tmp_path, mine) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / mine).write_text("mine")
    if mine != "recipe.yaml":
        (tmp_path / "x" / ".lock").touch()
    with (
        pytest.raises(InputError, match="already"),
        RunFolder.creating(tmp_path, "x", numbered=False),
    ):
        pass
    assert (tmp_path / "x" / mine).read_text() == "mine"
