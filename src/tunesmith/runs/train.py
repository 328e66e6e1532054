"""One run, from recipe to report: the path of the design, each stage once.

    prepare → record → measure before → learn → measure after → compare → save → report

Each stage leaves a file in the run directory and is skipped where that file is there already, so a
resumed run takes up at the stage, and in training at the step, where it was stopped.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.console import Console
from tunesmith.errors import RunError
from tunesmith.evidence.report import write_report
from tunesmith.models.atomic import UnwritableError, unwritable
from tunesmith.recipes.load import load_recipe
from tunesmith.runs.folder import RunFolder
from tunesmith.runs.frozen import Frozen, decide, keep, taken_again
from tunesmith.runs.hardware import differs, hardware
from tunesmith.runs.interpolation import find_point
from tunesmith.runs.learn import learn
from tunesmith.runs.measure import compare_run, measure_after, measure_before
from tunesmith.runs.memory_budget import replay
from tunesmith.runs.prepare import Prepared, prepare
from tunesmith.runs.record import check_same_inputs, write_record
from tunesmith.runs.result import save_result
from tunesmith.runs.retain import examine, keep_written
from tunesmith.runs.run import Run
from tunesmith.runs.summary import base_facts, task_facts, write_summary
from tunesmith.training.guards import Interrupted

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


def train(
    recipe: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    name: str | None = None,
    runs_dir: str | Path = "runs",
    console: Console | None = None,
) -> Run:
    """Fine-tune as `recipe` says, and measure what it brought.

    Args:
        recipe: a recipe file, or its content.
        overrides: changes as on the command line, such as `training.epochs=2`.
        name: of the run; else made from the recipe's place, with a number.
        runs_dir: where the run directory is made.

    Returns:
        The finished run: `run.verdict`, `run.predict([...])`, `run.path`.

    Raises:
        InputError: the recipe, its data or its model is wrong; nothing is left behind.
        RunError: it failed on the way; `resume` goes on from the last checkpoint.
    """
    console = console or Console()
    parsed = load_recipe(recipe, overrides)
    named = default_name(recipe) if name is None else name
    with RunFolder.creating(Path(runs_dir), named, numbered=name is None) as folder:
        try:
            prepared = prepare(parsed, console)
            frozen = decide(prepared)
            keep_written(folder, prepared.retention)
            write_record(folder, prepared, frozen)
        except BaseException:
            folder.discard()
            raise
        with _resumable(folder):
            return _finish(folder, prepared, frozen, console)


def resume(
    run: str | Path, *, runs_dir: str | Path = "runs", console: Console | None = None
) -> Run:
    """Go on with a run that was stopped, from its directory alone.

    Raises:
        InputError: there is no such run, or its data or model is not what it began with.
    """
    console = console or Console()
    folder = RunFolder.open(run, Path(runs_dir))
    with folder.locked():
        if folder.finished:
            console.note(f"{folder.path} has finished already.")
            return Run(folder)
        began = folder.read_stored(folder.record)
        prepared = prepare(
            load_recipe(folder.recipe),
            console,
            began["task"],
            began.get("technique"),
            folder.written,
        )
        record = check_same_inputs(folder, prepared)
        replay(prepared.engine, record["checkpointing"])
        prepared.warnings += record["checkpointing"]["shortages"]
        difference = differs(record["hardware"], hardware())
        if difference:
            console.warn(difference)
        with _resumable(folder):
            return _finish(folder, prepared, taken_again(record["frozen"]), console)


def default_name(recipe: str | Path | Mapping[str, Any]) -> str:
    """Return what a run of this recipe is called when the user gives no name."""
    if isinstance(recipe, Mapping):
        return "run"
    path = Path(recipe).resolve()
    return path.parent.name if path.stem == "recipe" else path.stem


@contextmanager
def _resumable(folder: RunFolder) -> Iterator[None]:
    """Let an interruption, and a disk that is full, say how to go on with the run.

    Raises:
        Interrupted, RunError: what it was, with the command that goes on.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(str(error), run=str(folder.path)) from None
    except UnwritableError as error:
        raise _stopped(error, folder) from error
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise _stopped(unwritable(error, folder.path), folder) from error


def _stopped(error: UnwritableError, folder: RunFolder) -> RunError:
    fix = f"Free some space or set the permissions, then go on with: {folder.resume_command}"
    return RunError(error.what, where=error.where, fix=fix)


def _finish(folder: RunFolder, prepared: Prepared, frozen: Frozen | None, console: Console) -> Run:
    began = time.perf_counter()
    for warning in prepared.warnings:
        console.warn(warning)
    _introduce(prepared, console)
    keep(frozen, prepared, console)
    examine(folder, prepared.retention, console)
    before = measure_before(folder, prepared, console)
    learnt = learn(folder, prepared, console)
    find_point(folder, prepared, console)
    after = measure_after(folder, prepared, console)
    compare_run(folder, prepared, before, after)
    save_result(folder, prepared, console)
    write_summary(folder, prepared, learnt, time.perf_counter() - began)
    write_report(folder.path)
    return Run(folder)


def _introduce(prepared: Prepared, console: Console) -> None:
    engine, data = prepared.engine, prepared.train.data
    learns = sum(p.numel() for p in engine.optimizer.parameters.values())
    base = engine.model.parameters
    console.note(
        f"{len(data.records)} records to train on ({data.format} format,"
        f" {prepared.train.tokens:,} tokens), {len(prepared.test.data.records)} to test on."
    )
    if prepared.streamed is not None:
        console.note(prepared.streamed.introduction())
    console.note(
        f"{prepared.technique.name}: {learns:,} parameters learn ({learns / base:.2%} of the"
        f" base's {base:,}), computing in {str(engine.dtype).removeprefix('torch.')},"
        f" {'packed' if engine.packed else 'padded'}."
    )
    for sentence in prepared.model.surgery:
        console.note(sentence)
    found = (
        base_facts(engine.model),
        task_facts(prepared),
        prepared.technique.facts(),
        prepared.retention.facts(),
    )
    for heading, said in (pair for facts in found for pair in facts.items()):
        console.note(f"{heading}: {said}.")
    twice = engine.checkpoints.chosen.layers
    if twice:
        console.note(
            f"{twice} of {len(engine.checkpoints.layers)} layers are computed twice, to fit the"
            f" memory: about {prepared.memory.total / 1e9:.2g} GB are expected."
        )
