"""The learning stage of a run: the training loop, or the solver of a technique that fits at once.

Most techniques learn by gradient steps (`training/loop.py`); one whose head has a convex solver
(`repurpose`) computes the features of every record once and fits it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tunesmith.console import Console
from tunesmith.data.streamed_plan import StreamedPlan
from tunesmith.engine.batching import batches
from tunesmith.evaluation.significance import figures
from tunesmith.objectives.base import Features
from tunesmith.runs.encoding import Part
from tunesmith.runs.folder import RunFolder
from tunesmith.runs.members import selects_steps
from tunesmith.runs.prepare import Prepared
from tunesmith.runs.record import write_shortage
from tunesmith.runs.roofline import meter_of
from tunesmith.stored import Stored
from tunesmith.tasks.base import Metric
from tunesmith.tasks.multitask import MultiTask
from tunesmith.techniques.base import Fits
from tunesmith.training.checkpoints import Checkpoints, Progress
from tunesmith.training.events import Events
from tunesmith.training.loop import OF_PACE, Loop, Validation
from tunesmith.training.memory import peak_bytes, resident_bytes
from tunesmith.training.utilisation import Meter, Roof


@dataclass(frozen=True)
class Learnt:
    """What learning took: how far it went, the most memory that was held, and the rate of matrix
    products that its speed is held against (None where nothing learns by steps)."""

    progress: Progress
    peak_memory_bytes: int
    roof: Roof | None = None


def learn(folder: RunFolder, prepared: Prepared, console: Console) -> Learnt:
    """Learn from the training records, from the last checkpoint on where there is one.

    Raises:
        RunError: a guard stopped it.
        Interrupted: the user asked to stop; a checkpoint was written.
    """
    solver = prepared.technique.solver
    if solver is not None:
        progress = _fit(solver, folder, prepared, console)
        return Learnt(progress, peak_bytes())
    meter = meter_of(prepared.engine, folder.read_stored(folder.record))
    progress = _train(folder, prepared, console, meter)
    if prepared.streamed is not None:
        said = prepared.streamed.warning(progress.position)
        for sentence in [said] if said else []:
            prepared.warnings.append(sentence)
            console.warn(sentence)
    return Learnt(progress, peak_bytes(), meter.roof if meter else None)


def _train(
    folder: RunFolder, prepared: Prepared, console: Console, meter: Meter | None
) -> Progress:
    training = prepared.recipe.training
    checkpoints = Checkpoints(folder.checkpoints, training.keep_checkpoints)
    saved = checkpoints.latest()
    progress = Progress(initial_digest=prepared.engine.digest(), seconds=prepared.frozen_seconds)
    best = None
    plan = prepared.steps(saved.progress if saved else progress)
    prepared.technique.begin(prepared.model, len(plan))
    if saved is not None:
        prepared.engine.load_state_dict(saved.state)
        of_pace = {n: t for n, t in saved.state.items() if n.startswith(OF_PACE)}
        own = {name.removeprefix(OF_PACE): tensor for name, tensor in of_pace.items()}
        prepared.technique.load_tensors(Stored(own, saved.state.where))
        progress, best = saved.progress, saved.best
        console.note(f"Going on after step {progress.step}.")
    events = Events(folder.events, after_step=progress.step)
    try:
        return Loop(
            prepared.engine,
            prepared.objective,
            plan,
            training,
            checkpoints,
            events,
            console,
            validation=validation(prepared, console),
            progress=progress,
            best=best,
            meter=meter,
            pace=prepared.technique,
            before_update=prepared.retention.before_update,
            after_shortage=partial(write_shortage, folder, prepared),
        ).run()
    finally:
        events.close()
        if isinstance(plan, StreamedPlan):
            plan.close()


def validation(prepared: Prepared, console: Console) -> Validation | None:
    """Return how the run is judged on the way, or None where nothing is selected by it.

    The recipe's metric decides where it can be had without generating, else the task's own.
    """
    part = prepared.validation
    if part is None or not selects_steps(prepared.recipe.training):
        return None
    decides, metrics = deciding(prepared)

    def measure() -> Mapping[str, float]:
        return validation_figures(prepared, part, metrics, console)

    return Validation(measure, decides, metrics[decides].higher_is_better)


def deciding(prepared: Prepared) -> tuple[str, dict[str, Metric]]:
    """Return the metric that decides on validation records, where nothing is generated, and all."""
    task, metrics = prepared.task, dict(prepared.task.metrics)
    named = [prepared.recipe.evaluation.metric, task.primary]
    if isinstance(task, MultiTask):  # whose primary one is a member's, which may be generated
        first = next(iter(task.members))
        named.append(f"{first}/{task.members[first].primary}")
    return next(name for name in named if name and not metrics[name].generated), metrics


def validation_figures(
    prepared: Prepared, part: Part, metrics: Mapping[str, Metric], console: Console
) -> dict[str, float]:
    """Return every metric of `part` that needs no generation, with the weights as they are."""
    scores = prepared.task.measure(
        prepared.engine,
        part.data.records,
        part.examples,
        generate=0,
        console=Console(quiet=True),
        tokens_per_batch=prepared.recipe.evaluation.tokens_per_batch,
    )
    return figures(scores, {n: m for n, m in metrics.items() if not m.generated})


def _fit(solver: Fits, folder: RunFolder, prepared: Prepared, console: Console) -> Progress:
    """Compute the features once, and let the technique's solver fit its head on them."""
    progress = Progress(initial_digest=prepared.engine.digest())
    began = time.perf_counter()
    part = prepared.validation
    train = features(prepared, prepared.train, console)
    held_out = features(prepared, part, console) if part else None
    seed = prepared.recipe.training.seed
    found = solver.fit(prepared.model, *train, held_out, seed=seed)
    progress.step, progress.tokens = 1, prepared.train.tokens
    progress.examples = len(prepared.train.examples)
    progress.seconds = prepared.frozen_seconds + time.perf_counter() - began
    events = Events(folder.events)
    events.write(
        step=1,
        epoch=1.0,
        loss=found["loss"],
        terms={"squared_error" if train[1].is_floating_point() else "nll": found["loss"]},
        strength=found["strength"],
        tokens=progress.tokens,
        examples=progress.examples,
        seconds=progress.seconds,
        tokens_per_second=progress.tokens / progress.seconds,
        memory_bytes=resident_bytes(),
    )
    events.close()
    return progress


def features(prepared: Prepared, part: Part, console: Console) -> tuple[Tensor, Tensor]:
    """Return the pooled features `[B, D]` of each record, and the labels `[B]`."""
    engine = prepared.engine
    rows: list[Tensor] = []
    order: list[int] = []
    budget = prepared.recipe.evaluation.tokens_per_batch
    with console.progress("features", len(part.examples)) as bar:
        for batch in batches(part.examples, budget, engine.packed):
            rows.append(engine.forward(batch, Features).features_BD.float().cpu())
            order += batch.indices
            bar.advance(len(batch))
    places = torch.tensor(order).argsort()
    labels = torch.tensor([example.label for example in part.examples])
    return torch.cat(rows)[places], labels
