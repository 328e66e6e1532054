"""`record.json`: what a run began with, so that going on with it is the same run.

Fingerprints of the data and of the base model, versions, hardware, what the task found in the data
(class names), and the digest of what learns at step 0.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from typing import Any

from tunesmith.errors import InputError
from tunesmith.runs.encoding import Part
from tunesmith.runs.folder import SCHEMA_VERSION, RunFolder
from tunesmith.runs.frozen import Frozen
from tunesmith.runs.hardware import hardware, versions
from tunesmith.runs.memory_budget import after_shortage, record_of
from tunesmith.runs.prepare import Prepared
from tunesmith.runs.roofline import roof_of
from tunesmith.runs.teacher import fingerprint


def write_record(folder: RunFolder, prepared: Prepared, frozen: Frozen | None) -> None:
    """Write the recipe as resolved and the record of the run."""
    folder.write(folder.recipe, prepared.recipe.to_yaml())
    folder.write_json(
        folder.record,
        {
            "schema_version": SCHEMA_VERSION,
            "run": folder.path.name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "inputs": fingerprints(prepared),
            "task": prepared.task.state(),
            "technique": prepared.technique.state(),
            "surgery": list(prepared.model.surgery),
            "kernels": prepared.engine.kernels,
            "packed": prepared.engine.packed,
            "generation": prepared.engine.generation() if generates(prepared) else None,
            "dtype": str(prepared.engine.dtype).removeprefix("torch."),
            "checkpointing": record_of(prepared.engine, prepared.memory),
            "frozen": None if frozen is None else asdict(frozen),
            "initial_digest": prepared.engine.digest(),
            "roof": None if prepared.technique.solver else asdict(roof_of(prepared.engine)),
            "hardware": hardware(),
            "versions": versions(),
        },
    )


def write_shortage(folder: RunFolder, prepared: Prepared, said: str) -> None:
    """Write down that memory ran out in a step, and what is computed twice since then."""
    record = folder.read_stored(folder.record)
    record["checkpointing"] = after_shortage(prepared.engine, record["checkpointing"], said)
    folder.write_json(folder.record, record)
    prepared.warnings.append(said)


def generates(prepared: Prepared) -> bool:
    """Whether some of the test records are measured by real generation."""
    metrics = prepared.task.metrics.values()
    return prepared.recipe.evaluation.generate > 0 and any(metric.generated for metric in metrics)


def fingerprints(prepared: Prepared) -> dict[str, str]:
    """Return what a run depends on, as SHA-256: the base's weights and each part of the data."""
    found = {"model": prepared.model.source.fingerprint}
    for name, part in _parts(prepared).items():
        found[name] = _digest(part)
    if prepared.streamed is not None:
        found["the streamed files"] = prepared.streamed.fingerprint()
    return found | prepared.retention.fingerprints() | fingerprint(prepared.objective)


def check_same_inputs(folder: RunFolder, prepared: Prepared) -> dict[str, Any]:
    """Compare with what the run began with; return its record.

    Raises:
        InputError: the data or the base model has changed since.
    """
    record = folder.read_stored(folder.record)
    now = fingerprints(prepared)
    changed = [name for name, value in record["inputs"].items() if now.get(name) != value]
    if record["initial_digest"] != prepared.engine.digest():
        changed.append("the initial weights")
    if changed:
        raise InputError(
            f"This run cannot go on: what it began with has changed ({', '.join(changed)}).",
            where=str(folder.path),
            fix="Put the old files back, or start a new run.",
        )
    return record


def _parts(prepared: Prepared) -> dict[str, Part]:
    parts = {"train": prepared.train, "test": prepared.test}
    return parts | ({"validation": prepared.validation} if prepared.validation else {})


def _digest(part: Part) -> str:
    digest = hashlib.sha256()
    for record in part.data.records:
        digest.update(record.model_dump_json().encode())
        digest.update(b"\n")
    return digest.hexdigest()
