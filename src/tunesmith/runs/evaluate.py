"""`evaluate`: measure a finished run again, on its own test records or on others.

The base is rebuilt as it was before training (a fresh head is drawn from the same seed) and the
result is loaded from disk, so that what is measured is what a user of `model/` gets. Both compute
in the format that the run computed in, here too where another would be the machine's own choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.console import Console
from tunesmith.data.dataset import Dataset, load_dataset
from tunesmith.data.splits import load_splits
from tunesmith.engine.engine import Engine
from tunesmith.errors import DataError
from tunesmith.evaluation.evaluate import measure, metrics_json
from tunesmith.evaluation.significance import Comparison, compare
from tunesmith.models.adapters import without_adapter
from tunesmith.recipes.schema import Recipe
from tunesmith.runs.build import build_engine
from tunesmith.runs.encoded_store import Store
from tunesmith.runs.encoding import Part, encode
from tunesmith.runs.frozen_again import share_rows
from tunesmith.runs.members import make_technique, primary_metric, selects
from tunesmith.runs.run import Run
from tunesmith.tasks.base import ExampleScore, Task


@dataclass(frozen=True)
class Evaluation:
    """A run measured again: the comparison, and the scores that it was made of."""

    run: Run
    comparison: Comparison
    data: Dataset
    before: list[ExampleScore]
    after: list[ExampleScore]

    @property
    def metrics(self) -> dict[str, Any]:
        """The comparison as JSON data, as in `evaluation/metrics.json`."""
        return metrics_json(self.comparison)


def evaluate(
    run: Run, data: str | Path | None = None, *, console: Console | None = None
) -> Evaluation:
    """Compare base and result on the run's test records, or on the records of `data`.

    Raises:
        DataError: the records cannot be read or do not fit the task.
        InputError: the run has not finished; or it learnt several tasks, and `run.of(member)` must
            say which.
    """
    console = console or Console()
    recipe = run.recipe
    task = run.task
    chosen = _records(recipe, task, data)
    options = recipe.evaluation
    tuned = run.engine("tuned")  # which binds the task to its tokenizer
    store = Store(task, tuned.model, recipe.training.cache_gb, console)
    part = encode(task, chosen, drop=recipe.data.unlearnable == "drop", store=store)
    training = recipe.training.model_copy(update={"precision": run.record["dtype"]})
    as_it_was = recipe.model_copy(update={"training": training})
    technique = make_technique(recipe, task)
    technique.load_state(run.record.get("technique", {}))
    base = build_engine(as_it_was, task, technique, console)
    share_rows(run.record, recipe, base, tuned, part.examples, console)
    with without_adapter(base.model):
        before = _scores(task, base, part, recipe, console)
    after = _scores(task, tuned, part, recipe, console)
    tuned.kept = None  # the run goes on using it, for other texts
    comparison = compare(
        before,
        after,
        task.metrics,
        primary_metric(recipe, task),
        confidence=options.confidence,
        resamples=options.resamples,
        seed=recipe.training.seed,
    )
    return Evaluation(run, comparison, part.data, before, after)


def _scores(
    task: Task, engine: Engine, part: Part, recipe: Recipe, console: Console
) -> list[ExampleScore]:
    task.bind(engine.model)
    return measure(
        task,
        engine,
        part.data.records,
        part.examples,
        generate=recipe.evaluation.generate,
        console=console,
        tokens_per_batch=recipe.evaluation.tokens_per_batch,
    )


def _records(recipe: Recipe, task: Task, data: str | Path | None) -> Dataset:
    if data is None:
        seed = recipe.training.seed
        return load_splits(recipe.data, type(task).Record, selects(recipe), seed).test
    found = load_dataset(
        [str(data)],
        type(task).Record,
        recipe.data.format,
        None,
        recipe.data.columns,
        drop=recipe.data.unlearnable == "drop",
    )
    if not found.records:
        raise DataError("There are no records to measure on.", where=str(data))
    return found
