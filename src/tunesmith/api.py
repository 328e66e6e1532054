"""The Python doors: `train` for a whole run, `load` and `plan` for a loop of one's own.

    run = tunesmith.train("recipe.yaml"); run.verdict; run.predict(["…"])

    engine, task = tunesmith.load("smollm2-135m-instruct", task="instruct", technique="lora")
    objective = tunesmith.objective(task)
    for step in tunesmith.plan(task, tunesmith.read("train.jsonl", task)):
        for batch in step:
            engine.forward_backward(batch, objective, step.counts)
        engine.optimizer_step(learning_rate=2e-4)

The command line does nothing that these cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.console import Console
from tunesmith.data.dataset import Dataset, load_dataset
from tunesmith.data.plan import Plan
from tunesmith.engine.engine import Engine
from tunesmith.errors import RecipeError
from tunesmith.objectives.base import Objective
from tunesmith.recipes.load import parse_recipe
from tunesmith.recipes.members import members_of
from tunesmith.runs.build import build_engine
from tunesmith.runs.check import CheckResult, check
from tunesmith.runs.clean import CleanResult, clean
from tunesmith.runs.evaluate import Evaluation, evaluate
from tunesmith.runs.folder import RunFolder
from tunesmith.runs.inspect import Inspection, inspect
from tunesmith.runs.members import make_task, make_technique, own_objective
from tunesmith.runs.plan import TrainingPlan, plan_training
from tunesmith.runs.roofline import HardwareMeasured, measure_hardware
from tunesmith.runs.run import Run
from tunesmith.runs.train import resume, train
from tunesmith.tasks.base import Task

__all__ = [
    "CheckResult",
    "CleanResult",
    "Evaluation",
    "HardwareMeasured",
    "Inspection",
    "Run",
    "TrainingPlan",
    "check",
    "clean",
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

Choice = str | Mapping[str, Any]


def open_run(run: str | Path, *, runs_dir: str | Path = "runs") -> Run:
    """Return a run that was made before, by its path or its name.

    Raises:
        InputError: there is none.
    """
    return Run(RunFolder.open(run, Path(runs_dir)))


def read(source: str | Path, task: Task) -> Dataset:
    """Read records of a file, a folder or a hub data set, in the form that `task` learns from.

    Raises:
        DataError: names the file, the line and the field that is wrong.
    """
    return load_dataset([str(source)], type(task).Record)


def load(
    model: str,
    *,
    task: Choice = "instruct",
    technique: Choice = "lora",
    data: Dataset | Sequence[Any] = (),
    surgery: Sequence[Mapping[str, Any]] = (),
    base: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> tuple[Engine, Task]:
    """Load a model for a task, mark what learns, and return the engine and the bound task.

    Args:
        model: a name, a folder, a `.gguf` file or a hub id.
        task, technique: a name, or `{"name": …}` with its own options.
        data: records from which a task takes what it must know (class names).
        surgery: operations on the model before it learns, each `{"name": …}` with its options.
        base: the recipe's options of how the frozen base is kept.
        training: the recipe's training options that an engine reads (precision, decay, seed …).

    Raises:
        RecipeError, ModelError: they do not go together.
    """
    if members_of({"task": task}):
        raise RecipeError(
            "Several tasks at once are trained by a whole run.",
            where="task",
            fix="Use tunesmith.train, or load one of the tasks.",
        )
    recipe = parse_recipe(
        {
            "model": model,
            "task": task,
            "technique": technique,
            "data": {"train": "."},
            "surgery": [dict(operation) for operation in surgery],
            "base": dict(base or {}),
            "training": dict(training or {}),
        }
    )
    bound = make_task(recipe)
    bound.study(data.records if isinstance(data, Dataset) else data)
    engine = build_engine(recipe, bound, make_technique(recipe, bound), console or Console())
    return engine, bound


def objective(task: Task) -> Objective:
    """Return the objective that a task learns under."""
    return own_objective(task)


def plan(
    task: Task,
    data: Dataset | Sequence[Any],
    *,
    batch_size: int = 8,
    tokens_per_batch: int = 2048,
    epochs: float = 1.0,
    seed: int = 0,
) -> Plan:
    """Encode records and lay them into optimiser steps.

    Args:
        data: what `read` returned, or records.
        batch_size: records a step.
        tokens_per_batch: most tokens of one micro-batch.
    """
    records = data.records if isinstance(data, Dataset) else data
    origins = data.origins if isinstance(data, Dataset) else ()
    return Plan(
        task.encode_all(records, origins),
        objective(task).counts,
        batch_size=batch_size,
        tokens_per_batch=tokens_per_batch,
        epochs=epochs,
        seed=seed,
    )
