"""Tunesmith: fine-tune a language model for a task of your own, and prove that it got better.

    import tunesmith
    run = tunesmith.train("recipe.yaml")
    run.verdict; run.predict(["…"])

The names below come from `tunesmith.api` and are loaded when they are first used, so that the
import itself is quick and loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tunesmith import errors
from tunesmith.imports import uncollected

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
    with uncollected():
        api = importlib.import_module("tunesmith.api")
    return api if name == "api" else getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
