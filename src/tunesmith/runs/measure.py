"""Before and after: the test records measured twice, the instrument's noise, what was forgotten.

    measure_before ─┐
                    ├─ compare_run ──> evaluation/metrics.json, evaluation/predictions.parquet
    measure_after  ─┘

Scores are kept as they are made (`before.jsonl`, `after.jsonl`, `probe-*.jsonl`), so that a resumed
run measures nothing twice. The test records are read here alone.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tunesmith.console import Console
from tunesmith.engine.generation import PADDED
from tunesmith.evaluation.evaluate import measure, metrics_json, write_predictions
from tunesmith.evaluation.noise import Noise, measure_noise
from tunesmith.evaluation.probe import compare_probe, probe_refusal, probe_scores
from tunesmith.evaluation.significance import Comparison, compare
from tunesmith.models.adapters import without_adapter
from tunesmith.runs.encoding import Part
from tunesmith.runs.folder import RunFolder
from tunesmith.runs.members import primary_metric
from tunesmith.runs.multitask import first_of_each, names_of
from tunesmith.runs.prepare import Prepared
from tunesmith.runs.record import generates
from tunesmith.stored import Stored, built
from tunesmith.tasks.base import ExampleScore
from tunesmith.tasks.multitask import MultiTask

_NOISE_RECORDS = 32


@dataclass(frozen=True)
class Measured:
    """One measurement: scores of the test records, and of the probe (None without one)."""

    test: list[ExampleScore]
    probe: list[ExampleScore] | None


def measure_before(folder: RunFolder, prepared: Prepared, console: Console) -> Measured:
    """Measure the weights before training, and the noise of doing so."""
    if generates(prepared) and prepared.engine.generation() == PADDED:
        console.note(f"Answers are generated {PADDED}: this architecture allows no faster form.")
    model = prepared.model
    begun = nullcontext() if prepared.technique.begins_as_base else without_adapter(model)
    with begun:
        measured = _measure(folder, "before", prepared, console)
        if not folder.noise.exists():
            folder.write_json(folder.noise, asdict(_noise(prepared)))
    return measured


def measure_after(folder: RunFolder, prepared: Prepared, console: Console) -> Measured:
    """Measure the weights after training, on the same records in batches of the same shapes."""
    return _measure(folder, "after", prepared, console)


def compare_run(
    folder: RunFolder, prepared: Prepared, before: Measured, after: Measured
) -> Comparison:
    """Compare the two measurements and write what was found."""
    evaluation, seed = prepared.recipe.evaluation, prepared.recipe.training.seed
    task, records = prepared.task, prepared.test.data
    comparison = compare(
        before.test,
        after.test,
        task.metrics,
        primary_metric(prepared.recipe, task),
        confidence=evaluation.confidence,
        resamples=evaluation.resamples,
        seed=seed,
        deciding=task.primaries if isinstance(task, MultiTask) else None,
    )
    probe = None
    if before.probe is not None and after.probe is not None:
        probe = compare_probe(
            before.probe,
            after.probe,
            confidence=evaluation.confidence,
            resamples=evaluation.resamples,
            seed=seed,
        )
    refusal = probe_refusal(prepared.engine) if evaluation.probe else "The recipe switches it off."
    noise = built(Noise, folder.read_stored(folder.noise))
    write_predictions(
        folder.predictions,
        task,
        records.records,
        records.origins,
        before.test,
        after.test,
        [task.metrics[name] for name in comparison.deciding.values() or [comparison.primary]],
    )
    folder.write_json(folder.metrics, metrics_json(comparison, noise, probe, refusal))
    return comparison


def _measure(folder: RunFolder, when: str, prepared: Prepared, console: Console) -> Measured:
    evaluation = prepared.recipe.evaluation
    path = folder.evaluation / f"{when}.jsonl"
    probe_path = folder.evaluation / f"probe-{when}.jsonl"
    test = _kept(path)
    if test is None:
        console.note(f"Measuring {when} training.")
        test = measure(
            prepared.task,
            prepared.engine,
            prepared.test.data.records,
            prepared.test.examples,
            generate=evaluation.generate,
            console=console,
            tokens_per_batch=evaluation.tokens_per_batch,
        )
        _keep(folder, path, test)
    if not evaluation.probe or probe_refusal(prepared.engine):
        return Measured(test, None)
    probe = _kept(probe_path)
    if probe is None:
        probe = probe_scores(prepared.engine, console, tokens_per_batch=evaluation.tokens_per_batch)
        _keep(folder, probe_path, probe or [])
    return Measured(test, probe)


def _noise(prepared: Prepared) -> Noise:
    """Measure a few records twice: of validation where there are any, else of train."""
    part = prepared.validation or prepared.train
    primary = primary_metric(prepared.recipe, prepared.task)
    few = (first_of_each if isinstance(prepared.task, MultiTask) else first_records)(
        part, _NOISE_RECORDS
    )
    noise = measure_noise(
        prepared.task,
        prepared.engine,
        few.data.records,
        few.examples,
        primary=primary,
        generate=4 if prepared.task.metrics[primary].generated else 0,
        console=Console(quiet=True),
        tokens_per_batch=prepared.recipe.evaluation.tokens_per_batch,
    )
    if isinstance(prepared.task, MultiTask):  # the metric is of one of them
        return replace(noise, records=names_of(few.data.records)[primary.partition("/")[0]])
    return noise


def first_records(part: Part, count: int) -> Part:
    """Return the first `count` records of a part, and the examples that they became."""
    taken, seen = [], 0
    for example in part.examples:
        seen += not example.continues
        if seen > count:
            break
        taken.append(example)
    kept = part.data.take(range(min(count, len(part.data.records))))
    return Part(kept, taken)


def _keep(folder: RunFolder, path: Path, scores: list[ExampleScore]) -> None:
    lines = [json.dumps(asdict(score), ensure_ascii=False) + "\n" for score in scores]
    folder.write(path, "".join(lines))


def _kept(path: Path) -> list[ExampleScore] | None:
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").split("\n")
    return [built(ExampleScore, Stored(json.loads(line), path)) for line in lines if line]
