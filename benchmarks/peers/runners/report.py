"""What a side tells while it runs, one line a micro-batch, so that a side which is stopped has told
what it reached. Runs inside a peer's environment: the standard library alone, but for the watcher.

    report = Report(folder); report.batch(tokens, targets); report.trained(); report.saved()

`watch_trainer(report)` watches transformers' Trainer, on which most peers stand, from inside the
process: what it is given to learn from is counted in the very tensors that it learns from.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any


class Report:
    """Appends marks to `marks.jsonl`: `at` is the machine's monotonic clock, in seconds."""

    def __init__(self, folder: Path) -> None:
        self._file = open(folder / "marks.jsonl", "a", buffering=1, encoding="utf-8")  # noqa: SIM115

    def batch(self, tokens: int, targets: int) -> None:
        """A micro-batch begins: tokens that are read (padding not counted), tokens learnt."""
        self._write("batch", tokens=tokens, targets=targets)

    def trained(self) -> None:
        """The last optimiser step is done."""
        self._write("trained")

    def saved(self) -> None:
        """The result is on disk."""
        self._write("saved", **_gpu_peak())

    def figure(self, name: str, value: float) -> None:
        """A figure of this side alone."""
        self._write("figure", name=name, value=value)

    def note(self, text: str) -> None:
        """Something about this side that a reader of its figures must know."""
        self._write("note", text=text)

    def _write(self, event: str, **fields: Any) -> None:
        self._file.write(json.dumps({"at": time.monotonic(), "event": event, **fields}) + "\n")


def start() -> tuple[dict[str, Any], dict[str, Any], Path, Report]:
    """Return the job, this side's settings, the folder for its result, and its report."""
    job = json.loads(Path(sys.argv[1], "job.json").read_text(encoding="utf-8"))
    job["folder"] = sys.argv[1]
    out = Path(sys.argv[2])
    return job, json.loads(sys.argv[3]), out, Report(out)


def encoded(job: dict[str, Any]) -> list[dict[str, list[int]]]:
    """Return the training records as `input_ids` and `labels` (-100: only read)."""
    return _lines(Path(job["folder"], "encoded.jsonl"))


def save_encoded(job: dict[str, Any], folder: Path) -> str:
    """Write the training records as a data set on disk, and return its path."""
    from datasets import Dataset

    rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in encoded(job)]
    Dataset.from_list(rows).save_to_disk(str(folder))
    return str(folder)


def raw(job: dict[str, Any], part: str = "train") -> list[dict[str, Any]]:
    """Return the records as they were written by people."""
    return _lines(Path(job["folder"], f"{part}.jsonl"))


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def watch_trainer(report: Report) -> None:
    """Report every micro-batch of transformers' Trainer, and the end of its training."""
    from transformers import Trainer

    step, train = Trainer.training_step, Trainer.train

    @functools.wraps(step)
    def training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        report.batch(*_counts(inputs))
        return step(self, model, inputs, *args, **kwargs)

    @functools.wraps(train)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = train(self, *args, **kwargs)
        report.trained()
        return result

    Trainer.training_step, Trainer.train = training_step, watched


def _counts(inputs: Any) -> tuple[int, int]:
    """Tokens without padding, and tokens that are learnt, of one micro-batch."""
    ids, mask, labels = (inputs.get(name) for name in ("input_ids", "attention_mask", "labels"))
    flat = mask is None or mask.ndim != 2
    tokens = ids.numel() if flat else int(mask.sum())
    return tokens, 0 if labels is None else int((labels != -100).sum())


def _gpu_peak() -> dict[str, int]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    return {"gpu_peak_bytes": torch.cuda.max_memory_allocated()}
