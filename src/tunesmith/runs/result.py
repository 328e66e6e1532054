"""The result of a run: saved in its ecosystem's format, read back and compared, loaded for use.

model/            what the technique saves: PEFT adapter, transformers model, …
model/task.json   the task with its options, so that the result can be used by name
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tunesmith.console import Console
from tunesmith.data.batch import Encoded, collate
from tunesmith.engine.engine import Engine
from tunesmith.errors import RunError
from tunesmith.models.load import load_result
from tunesmith.models.model import Model
from tunesmith.models.notes import read_notes
from tunesmith.models.saving import set_stop_tokens, verify_saved
from tunesmith.objectives.base import Hidden
from tunesmith.runs.folder import SCHEMA_VERSION, RunFolder
from tunesmith.runs.prepare import Prepared
from tunesmith.runs.together import Together
from tunesmith.tasks.base import Task
from tunesmith.tasks.multitask import MultiTask
from tunesmith.tasks.parts.pieces import owners

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""By the format that was computed in: bfloat16 keeps 8 bits, and each layer rounds anew."""


_ASKED = 8
"""Test records on which it is tried whether the saved model is asked as it was taught."""


def save_result(folder: RunFolder, prepared: Prepared, console: Console) -> None:
    """Save the fine-tuned model, and check that its own reader gives the same answers.

    Raises:
        RunError: what was read back differs from what was trained, it would be asked otherwise than
            it was taught, or it could not be written.
    """
    task, model, technique = prepared.task, prepared.model, prepared.technique
    if isinstance(task, MultiTask) and isinstance(technique, Together):
        for name, member in task.members.items():
            with _as_taught(model.of(name), member):
                technique.save_member(model, name, folder.model / name)
            _verify(prepared, model.of(name), folder.model / name, name, console)
            own = [r.record for r in prepared.test.data.records if r.member == name]
            member.check_saved(folder.model / name, own[:_ASKED])
    else:
        with _as_taught(model, task):
            technique.save(model, folder.model)
        _verify(prepared, model, folder.model, "", console)
        task.check_saved(folder.model, prepared.test.data.records[:_ASKED])
    if model.peft is not None and technique.changes_base() is None:  # else "off" is not the base
        _say_effect(adapter_effect(prepared.engine, prepared.test.examples[0]), prepared, console)
    folder.write_json(folder.task, describe(prepared))


@contextmanager
def _as_taught(model: Model, task: Task) -> Iterator[None]:
    """Let what is saved meanwhile be asked, and stop, as it was taught by this task.

    Tasks that write share a tokenizer, and each may have a chat template of its own.
    """
    if task.stop_ids:
        set_stop_tokens(model, task.stop_ids)
    own = model.tokenizer.chat_template
    if task.chat_template is not None:
        model.tokenizer.chat_template = task.chat_template
    try:
        yield
    finally:
        model.tokenizer.chat_template = own


def adapter_effect(engine: Engine, example: Encoded) -> float:
    """Return how far the adapter moves the last hidden states of an example.

    Returns:
        The norm of the difference, as a share of that of the states without it.
    """
    batch = collate([example])
    states = engine.forward(batch, Hidden).hidden_TD.float()
    without = engine.forward(batch, Hidden, adapter="off").hidden_TD.float()
    return float((states - without).norm() / without.norm())


def _say_effect(effect: float, prepared: Prepared, console: Console) -> None:
    if effect != 0:
        console.note(f"The adapter moves what the model makes of a test record by {effect:.2g}.")
        return
    said = (
        "The adapter changes nothing of what the model makes of a test record: what was learnt is"
        " too small to be seen in the format that is computed in, or does not reach the answers."
    )
    prepared.warnings.append(said)
    console.warn(said)


def _verify(prepared: Prepared, model: Model, folder: Path, member: str, console: Console) -> None:
    difference = verify_saved(model, folder, _probe_ids(prepared, member))
    if difference is None:
        console.warn(
            f"{folder} was written, not verified: its reader is not installed"
            " (pip install sentence-transformers)."
        )
    elif difference > _TOLERANCE[prepared.engine.dtype]:
        raise RunError(
            f"The saved model answers differently from the trained one (by {difference:.2g}).",
            where=str(folder),
            fix="Report this with the recipe; the checkpoints of the run are whole.",
        )


def load_engine(folder: Path, record: Mapping[str, Any]) -> Engine:
    """Return an engine over a saved result that computes as its run did.

    What was read and not learnt is held in the format that was computed in; weights that were
    learnt whole are held in float32, as they were learnt.

    Args:
        folder: the run's `model`.
        record: the run's `record.json`, which says what it computed in, and whether packed.

    Raises:
        ModelError: it is no result, or an adapter's base is missing or other weights.
    """
    dtype = computed_in(record)
    stored = torch.float32 if read_notes(folder).saved_as == "full" else dtype
    return as_recorded(load_result(folder, dtype=stored), record)


def as_recorded(model: Model, record: Mapping[str, Any]) -> Engine:
    """Return an engine over `model` that computes as the run of `record` did."""
    if model.quantised is None:
        model.module.to("cuda" if torch.cuda.is_available() else "cpu")
    return Engine(model, dtype=computed_in(record), packing=bool(record["packed"]))


def computed_in(record: Mapping[str, Any]) -> torch.dtype:
    """Return the format that the run of `record` computed in."""
    return torch.bfloat16 if record["dtype"] == "bfloat16" else torch.float32


def describe(prepared: Prepared) -> dict[str, Any]:
    """Return what is needed to use the result for its task."""
    return {
        "schema_version": SCHEMA_VERSION,
        "task": prepared.recipe.task.model_dump(mode="json"),
        "state": prepared.task.state(),
        "technique": prepared.recipe.technique.name,
        "base": {
            "name": prepared.recipe.model,
            "fingerprint": prepared.model.source.fingerprint,
        },
    }


def _probe_ids(prepared: Prepared, member: str) -> list[int]:
    records = prepared.test.data.records
    place = [record.member for record in records].index(member) if member else 0
    first = owners(prepared.test.examples).index(place)
    stream = next(iter(prepared.test.examples[first].streams.values()))
    return list(stream.ids[:64])
