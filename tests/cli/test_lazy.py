"""The package and the help are there at once: they load no torch, nor what is built on it."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys

import pytest

from tunesmith.imports import uncollected

HEAVY = ("torch", "transformers", "peft", "datasets", "sklearn", "matplotlib", "numpy", "pandas")

SNIPPETS = {
    "import": "import tunesmith; dir(tunesmith)",
    "help": "from tunesmith.cli.main import run; assert run(['--help']) == 0",
    "help of a command": "from tunesmith.cli.main import run; assert run(['train', '-h']) == 0",
    "version": "from tunesmith.cli.main import run; assert run(['--version']) == 0",
    "list of models": "from tunesmith.cli.main import run; assert run(['models']) == 0",
}


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("name", ["import", "help", "help of a command", "version"])
def test_nothing_heavy_is_loaded(name: str) -> None:
    code = f"{SNIPPETS[name]}\nimport sys; print(); print(*sys.modules)"
    loaded = set(_python(code).splitlines()[-1].split())
    assert loaded.isdisjoint(HEAVY)


def test_training_begins_without_what_is_needed_at_its_end_or_by_some_recipes() -> None:
    later = {"sklearn", "matplotlib", "datasets", "peft", "sentence_transformers", "cleanlab"}
    code = "import gc, tunesmith; tunesmith.train; assert gc.isenabled(); import sys"
    loaded = set(_python(f"{code}; print(*sys.modules)").split())
    assert "torch" in loaded
    assert loaded.isdisjoint(later)


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_rests_while_modules_are_imported(collects: bool) -> None:
    before, seen = gc.isenabled(), []
    try:
        (gc.enable if collects else gc.disable)()
        with uncollected():
            seen.append(gc.isenabled())
        with pytest.raises(ImportError), uncollected():
            raise ImportError
        assert seen == [False]
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()


def test_a_process_ends_without_looking_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.cli.main import main

    monkeypatch.setattr(sys, "argv", ["tunesmith", "--version"])
    try:
        with pytest.raises(SystemExit) as ended:
            main()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
    assert ended.value.code == 0


RECIPE = """
import sys
from tunesmith.recipes import load_recipe, recipe_schema
load_recipe({"model": "m", "task": "classification", "data": {"train": "."}})
recipe_schema()
print(*sys.modules)
"""


def test_recipes_and_the_options_of_all_members_load_no_torch() -> None:
    assert set(_python(RECIPE).split()).isdisjoint({"torch", "transformers", "peft", "datasets"})


@pytest.mark.parametrize("name", ["import", "help"])
def test_it_takes_less_than_half_a_second_of_processor_time(name: str) -> None:
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = []
    for _ in range(3):
        before = spent()
        _python(SNIPPETS[name])
        times.append(spent() - before)
    assert min(times) < 0.5


def test_the_public_names_are_those_of_the_api() -> None:
    import tunesmith
    from tunesmith import api

    for name in set(tunesmith.__all__) - {"errors"}:
        assert getattr(tunesmith, name) is getattr(api, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import tunesmith

    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        tunesmith.trian  # noqa: B018
