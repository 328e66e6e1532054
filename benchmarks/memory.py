"""Predicted against measured memory: `python -m benchmarks.memory` ──> results/memory-cpu.json

Each case is a fresh process: it loads a model, predicts the peak of a training step as `check` and
`train` do (`training/memory.py`), then takes three steps of made-up documents. Compared are bytes
above what the process holds once everything is imported; the peak is the kernel's high-water mark
of the steps (on a GPU: the allocator's). Nothing of the prediction is fitted to these models.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.__main__ import RESULTS, command_line, machine
from benchmarks.peers.measure import last_words, run_process

ROOT = Path(__file__).parents[1]
LORA = {"name": "lora", "rank": 16}
FULL = {"name": "full"}
TOP = {"name": "layers", "last": 4}


@dataclass(frozen=True)
class Case:
    """One process: `documents` of `length` tokens in one micro-batch a step."""

    model: str
    technique: dict[str, Any]
    documents: int
    length: int
    training: dict[str, Any] = field(default_factory=dict)
    checkpointed: int = 0
    task: str = "language_modeling"


SMALL, MIDDLE = "random:smollm2-135m", "random:smollm2-360m"
QWEN, GPT2, MINILM = "random:qwen3-0.6b", "random:gpt2", "minilm-l6"
CASES = (
    Case(SMALL, LORA, 2, 256),
    Case(SMALL, LORA, 8, 256),
    Case(SMALL, LORA, 1, 2048),
    Case(SMALL, LORA, 8, 256, checkpointed=30),
    Case(SMALL, FULL, 2, 256),
    Case(SMALL, FULL, 8, 256),
    Case(SMALL, FULL, 8, 256, {"optimizer": "adamw_8bit"}),
    Case(SMALL, FULL, 4, 256, {"optimizer_in_backward": True, "clip_per_tensor": True}),
    Case(SMALL, TOP, 8, 256),
    Case(MIDDLE, LORA, 4, 256),
    Case(MIDDLE, FULL, 4, 256),
    Case(QWEN, LORA, 4, 256),
    Case(GPT2, LORA, 8, 256),
    Case(GPT2, FULL, 4, 256),
    Case(MINILM, FULL, 64, 128, task="classification"),
    Case(MINILM, LORA, 64, 128, task="classification"),
)


def run_case(case: Case) -> dict[str, float]:
    """Predict and measure one case in this process."""
    import torch
    from benchmarks.peers.encode import model_folder

    import tunesmith
    from tunesmith.engine.checkpointing import Checkpointed
    from tunesmith.training.memory import Memory, MicroBatch, peak_bytes, resident_bytes

    imported = resident_bytes()
    engine, objective, batch = made(case, str(model_folder(case.model)), tunesmith)
    chosen = Checkpointed(case.checkpointed)
    estimate = Memory(engine).estimate(MicroBatch.of(batch, engine), chosen)
    engine.checkpoints.choose(chosen)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        engine.begin_step(1e-4)
        engine.forward_backward(batch, objective, objective.counts(batch))
        engine.optimizer_step(1e-4)
    parts = {name: float(size) for name, size in estimate.parts().items()}
    parts["process"] -= imported if not torch.cuda.is_available() else 0
    measured = peak_bytes() if torch.cuda.is_available() else _high_water() - imported
    return {"predicted": sum(parts.values()), "measured": measured, **parts}


def made(case: Case, folder: str, tunesmith: Any) -> tuple[Any, Any, Any]:
    """Return the engine, the objective and the micro-batch of a case."""
    import torch

    from tunesmith.data.batch import Encoded, EncodedStream, collate

    classify = case.task == "classification"
    options = {"name": case.task, **({"labels": ["no", "yes"]} if classify else {})}
    engine, task = tunesmith.load(
        folder, task=options, technique=case.technique, training=case.training
    )
    generator = torch.Generator().manual_seed(0)
    shape = (case.documents, case.length)
    ids = torch.randint(10, engine.model.anatomy.vocab_size, shape, generator=generator)
    weights = None if classify else (0.0,) + (1.0,) * (case.length - 1)
    rows = [
        Encoded({"text": EncodedStream(tuple(row), weights)}, label=i % 2 if classify else None)
        for i, row in enumerate(ids.tolist())
    ]
    return engine, tunesmith.objective(task), collate(rows)


def _high_water() -> int:
    """The kernel's high-water mark of this process since it was last cleared, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(case: Case, scratch: Path) -> dict[str, Any]:
    """Run one case as a fresh process."""
    log = scratch / "log"
    command = [sys.executable, "-m", "benchmarks.memory", "--case", json.dumps(asdict(case))]
    ended = run_process(command, log, 600, {}, cwd=ROOT)
    if ended.code != 0:
        return {**asdict(case), "status": "failed", "error": last_words(ended, log)}
    return {**asdict(case), "status": "finished", **json.loads(log.read_text().splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", help="used inside")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(Case(**json.loads(options.case)))))
        return
    about = machine()
    device = "cuda" if about["hardware"]["gpu"] else "cpu"
    out = options.out or RESULTS / f"memory-{device}.json"
    report: dict[str, Any] = {
        "benchmark": "memory",
        **about,
        "date": datetime.date.today().isoformat(),
        "command": command_line("benchmarks.memory"),
        "cases": [],
    }
    with tempfile.TemporaryDirectory(prefix="tunesmith-memory-") as scratch:
        for case in CASES:
            report["cases"].append(measure(case, Path(scratch)))
            print(json.dumps(report["cases"][-1]), flush=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
