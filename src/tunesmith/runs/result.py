"""The result of a run: saved in its ecosystem's format, then loaded from disk and compared.

model/            what the technique saves: PEFT adapter, transformers model, …
model/task.json   the task with its options, so that the result can be used by name
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.console import Console
from tunesmith.errors import RunError
from tunesmith.models.saving import set_stop_tokens, verify_saved
from tunesmith.runs.folder import SCHEMA_VERSION, RunFolder
from tunesmith.runs.prepare import Prepared

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""By the format that was computed in: bfloat16 keeps 8 bits, and each layer rounds anew."""


def save_result(folder: RunFolder, prepared: Prepared, console: Console) -> None:
    """Save the fine-tuned model, and check that its own reader gives the same answers.

    Raises:
        RunError: what was read back differs from what was trained, or could not be written.
    """
    if prepared.task.stop_ids:
        set_stop_tokens(prepared.model, prepared.task.stop_ids)
    prepared.technique.save(prepared.model, folder.model)
    difference = verify_saved(prepared.model, folder.model, _probe_ids(prepared))
    if difference is None:
        console.warn(
            f"{folder.model} was written, not verified: its reader is not installed"
            " (pip install sentence-transformers)."
        )
    elif difference > _TOLERANCE[prepared.engine.dtype]:
        raise RunError(
            f"The saved model answers differently from the trained one (by {difference:.2g}).",
            where=str(folder.model),
            fix="Report this with the recipe; the checkpoints of the run are whole.",
        )
    folder.write_json(folder.task, describe(prepared))


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


def _probe_ids(prepared: Prepared) -> list[int]:
    stream = next(iter(prepared.test.examples[0].streams.values()))
    return list(stream.ids[:64])
