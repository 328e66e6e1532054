"""A plain install is enough: where everything is missing that extras bring, every module loads."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))[
    "project"
]
MODULES = {"sentence-transformers": "sentence_transformers", "rouge-score": "rouge_score"}
WITHOUT = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {names!r}
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
import tunesmith
for found in pkgutil.walk_packages(tunesmith.__path__, "tunesmith."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print("all of them")
"""


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ]", requirement)[0] for requirement in requirements}


def test_every_module_loads_where_the_extras_are_missing() -> None:
    extras = [names(listed) for listed in PROJECT["optional-dependencies"].values()]
    optional = set().union(*extras) - names(PROJECT["dependencies"])
    # transformers and PEFT look for accelerate themselves, and bring it with them.
    hidden = {MODULES.get(name, name) for name in optional} - {"accelerate", "pytest", "mypy"}
    assert {"bitsandbytes", "sentence_transformers", "trl"} <= hidden
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(names=hidden)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "all of them", done.stderr[-2000:]
