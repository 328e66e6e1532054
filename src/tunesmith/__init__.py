"""Tunesmith: fine-tune a language model for a task of your own, and prove that it got better.

    import tunesmith
    run = tunesmith.train("recipe.yaml")
    run.verdict; run.predict(["…"])

The names below come from `tunesmith.api` and are loaded when they are first used, so that the
import itself is quick and loads no torch.
"""

from __future__ import annotations

import gc
import importlib
from typing import TYPE_CHECKING, Any

from tunesmith import errors

if TYPE_CHECKING:
    from tunesmith.api import (
        check,
        clean,
        evaluate,
        inspect,
        load,
        measure_hardware,
        objective,
        open_run,
        plan,
        plan_training,
        read,
        resume,
        train,
    )

__version__ = "0.1.0"

__all__ = [
    "check",
    "clean",
    "errors",
    "evaluate",
    "inspect",
    "load",
    "measure_hardware",
    "objective",
    "open_run",
    "plan",
    "plan_training",
    "read",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name != "api" and name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    api = _import_api()
    return api if name == "api" else getattr(api, name)


def _import_api() -> Any:
    """Import the doors, and torch with them.

    What modules are made of stays; to look through it for garbage all the while would take a
    seventh of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module("tunesmith.api")
    finally:
        if collects:
            gc.enable()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
