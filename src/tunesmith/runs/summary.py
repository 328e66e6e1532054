"""`summary.json`: a run in figures, for the report and for `--json`."""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import tunesmith
from tunesmith.data.records import labels_of
from tunesmith.models.model import Model
from tunesmith.models.quantised import stored_facts
from tunesmith.runs.encoding import Part
from tunesmith.runs.folder import SCHEMA_VERSION, RunFolder
from tunesmith.runs.hardware import hardware, versions
from tunesmith.runs.learn import Learnt
from tunesmith.runs.multitask import mixture
from tunesmith.runs.prepare import Prepared, cut_records
from tunesmith.tasks.multitask import MultiTask


def write_summary(folder: RunFolder, prepared: Prepared, learnt: Learnt, seconds: float) -> None:
    """Write the summary of a finished run.

    Args:
        seconds: wall time of this execution, from the first measurement to the last.
    """
    progress = learnt.progress
    counts = parameter_counts(prepared)
    folder.write_json(
        folder.summary,
        {
            "schema_version": SCHEMA_VERSION,
            "run": folder.path.name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "tunesmith": tunesmith.__version__,
            "model": {
                "name": prepared.model.source.name,
                "fingerprint": prepared.model.source.fingerprint,
                "family": prepared.model.anatomy.family,
                "kind": prepared.model.anatomy.kind,
                **counts,
            },
            "task": prepared.task.name,
            "technique": prepared.technique.name,
            "technique_facts": base_facts(prepared.model)
            | prepared.technique.facts()
            | task_facts(prepared),
            "surgery": list(prepared.model.surgery),
            "new_head": prepared.model.new_head,
            "retain": prepared.retention.facts(),
            "data": describe_data(prepared, progress.position),
            "steps": progress.step,
            "tokens": progress.tokens,
            "trained_tokens": progress.trained_tokens,
            "seconds": progress.seconds,
            "waited": progress.waited / progress.seconds,
            "job_seconds": seconds,
            "tokens_per_second": progress.tokens / progress.seconds,
            "flops": progress.flops or None,
            "mfu": progress.mfu,
            "roof": asdict(learnt.roof) if learnt.roof else None,
            "stopped_early": progress.stopped_early,
            "best_step": progress.best_step,
            "trainable_parameters": counts["trainable"],
            "predicted_memory_bytes": predicted_memory(prepared),
            "peak_memory_bytes": learnt.peak_memory_bytes,
            "hardware": hardware(),
            "versions": versions(),
        },
    )


def base_facts(model: Model) -> dict[str, str]:
    """Return what the report says of how the base was kept, by heading."""
    kept = model.quantised or model.streamed
    return stored_facts(model.module) if kept is None else kept.facts()


def task_facts(prepared: Prepared) -> dict[str, str]:
    """Return what the report says of several tasks that are learnt at once, by heading."""
    task = prepared.task
    if not isinstance(task, MultiTask):
        return {}
    said = mixture(task, prepared.train, prepared.plan())
    return {"Tasks": "; ".join(f"{name}: {words}" for name, words in said.items())}


def parameter_counts(prepared: Prepared) -> dict[str, int]:
    """Return how many parameters the base has, and how many learn: its own, or added ones."""
    return {
        "parameters": prepared.model.parameters,
        "trainable": sum(p.numel() for p in prepared.engine.optimizer.parameters.values()),
    }


def predicted_memory(prepared: Prepared) -> int:
    """Return the predicted peak of this process in bytes."""
    return prepared.memory.total


def describe_data(prepared: Prepared, position: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return counts of each part of the data, what was cut, and the classes.

    Args:
        position: where a stream stands after the last step; None where records are read at once.
    """
    parts = {"train": prepared.train, "test": prepared.test, "validation": prepared.validation}
    streamed = prepared.streamed
    return {
        **{name: None if part is None else describe_part(part) for name, part in parts.items()},
        **({} if streamed is None else {"train": streamed.describe(position)}),
        "format": prepared.train.data.format,
        "cut": len(cut_records(prepared.train)),
        "dropped": len(prepared.dropped),
        "classes": class_counts(prepared.train) if prepared.task.labels else None,
        "warnings": prepared.warnings,
    }


def describe_part(part: Part) -> dict[str, Any]:
    """Return records, examples and tokens of one part."""
    return {
        "file": ", ".join(dict.fromkeys(origin.rpartition(":")[0] for origin in part.data.origins)),
        "records": len(part.data.records),
        "examples": len(part.examples),
        "tokens": part.tokens,
        "trained_tokens": part.trained_tokens,
    }


def class_counts(part: Part) -> dict[str, int]:
    """Return how many records (where these hold entities: entities) each class has, most first."""
    labels = (label for record in part.data.records for label in labels_of(record))
    return dict(collections.Counter(labels).most_common())
