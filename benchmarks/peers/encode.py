"""Encode a job's records once, with Tunesmith's own encoder.

    python -m benchmarks.peers.encode JOB

Every peer that takes token ids learns exactly these; Tunesmith itself encodes again, inside its
time. Runs as a process of its own, because the harness imports no torch. Makes a model of random
weights where the work asks for a shape.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import HOME
from benchmarks.peers.work import LABELS, OF_TEXTS, write_lines

RANDOM = "random:"


def main(folder: Path) -> None:
    """Write the encoded records, and what is known by now into `job.json`."""
    job = json.loads((folder / "job.json").read_text())
    path = model_folder(job["model"])
    parts = {"train": "encoded.jsonl", "held_out": "held_out_encoded.jsonl"}
    encode = _texts if job["kind"] in OF_TEXTS else _answers
    rows = {part: encode(folder / f"{part}.jsonl", path) for part in parts}
    for part, name in parts.items():
        write_lines(folder / name, rows[part])
    lengths = [len(row["input_ids"]) for row in rows["train"]]
    found = {
        "path": str(path),
        "tokens": sum(lengths),
        "targets": sum(_targets(row) for row in rows["train"]),
        "longest": max(lengths),
        **({"labels": LABELS} if job["kind"] in OF_TEXTS else {}),
    }
    (folder / "job.json").write_text(json.dumps({**job, **found}, indent=2) + "\n")


def model_folder(model: str) -> Path:
    """Return where the model lies; make it first where it is a shape of random weights."""
    from tunesmith.models.resolve import resolve

    if model.startswith(RANDOM):
        from benchmarks.peers.shapes import make

        tokenizer = resolve("smollm2-135m-instruct").path
        return make(model.removeprefix(RANDOM), tokenizer, HOME / "models")
    return Path(resolve(model).path).resolve()


def _targets(row: dict[str, Any]) -> int:
    """Tokens that are learnt; a classified text has one target."""
    labels = row["labels"]
    return sum(label != -100 for label in labels) if isinstance(labels, list) else 1


def _answers(path: Path, model: Path) -> list[dict[str, Any]]:
    """Conversations as token ids, of which only the answers are learnt."""
    import torch

    import tunesmith
    from tunesmith.models.load import load_model
    from tunesmith.models.resolve import resolve
    from tunesmith.registry import TASKS

    task = TASKS.get("instruct")()
    task.bind(load_model(resolve(str(model)), head="causal_lm", dtype=torch.bfloat16))
    streams = [e.streams["text"] for e in task.encode_all(tunesmith.read(path, task).records)]
    return [
        {
            "input_ids": list(stream.ids),
            "labels": [
                token if weight and place else -100
                for place, (token, weight) in enumerate(
                    zip(stream.ids, stream.weights or (), strict=True)
                )
            ],
        }
        for stream in streams
    ]


def _texts(path: Path, model: Path) -> list[dict[str, Any]]:
    """Texts as token ids with the index of their class."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {"input_ids": tokenizer(record["text"])["input_ids"], "labels": record["label"]}
        for record in records
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
