"""Predicted against measured memory: `python -m benchmarks.memory` ──> results/memory-cpu.json

Each case is a fresh process: it loads a model, predicts the peak of a training step as `check` and
`train` do (`training/memory.py`), then takes two steps of made-up documents. Compared are bytes
above what the process holds once everything is imported; the peak is the kernel's high-water mark
of the steps (on a GPU: the allocator's). Only the first model was used to calibrate.

A case with a budget is asked for the largest micro-batch that fits it, as `tunesmith plan` is, and
takes its steps with that one: the whole process, imports included, against the budget.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.peers.__main__ import RESULTS, machine
from benchmarks.peers.measure import came_of, run_process

ROOT = Path(__file__).parents[1]
_STEPS = 2
"""The first makes the optimiser's moments; from the second on, memory stays as it is."""

_LIMIT = 1800
"""Seconds after which a case is given up."""

LORA = {"name": "lora", "rank": 16}
FULL = {"name": "full"}
TOP = {"name": "layers", "last": 4}


@dataclass(frozen=True)
class Case:
    """One process: `documents` of `length` tokens in one micro-batch a step.

    With a `budget`, in bytes, there are as many documents as are predicted to fit it.
    """

    model: str
    technique: dict[str, Any]
    documents: int
    length: int
    training: dict[str, Any] = field(default_factory=dict)
    checkpointed: int = 0
    task: str = "language_modeling"
    budget: int | None = None


SMALL, MIDDLE = "random:smollm2-135m", "random:smollm2-360m"
QWEN, GPT2, MINILM = "random:qwen3-0.6b", "random:gpt2", "minilm-l6"
CALIBRATED = SMALL
"""What of the prediction was measured beforehand, was measured on this model."""

EIGHT_BIT = {"optimizer": "adamw_8bit"}
IN_BACKWARD = {"optimizer_in_backward": True, "clip_per_tensor": True}
CASES = (
    Case(SMALL, LORA, 2, 256),
    Case(SMALL, LORA, 8, 256),
    Case(SMALL, LORA, 4, 256, checkpointed=30),
    Case(SMALL, FULL, 4, 256),
    Case(MIDDLE, LORA, 2, 256),
    Case(MIDDLE, LORA, 1, 512, checkpointed=32),
    Case(MIDDLE, FULL, 2, 256),
    Case(MIDDLE, TOP, 2, 256),
    Case(QWEN, LORA, 2, 256),
    Case(QWEN, LORA, 2, 256, checkpointed=28),
    Case(GPT2, LORA, 2, 256),
    Case(GPT2, FULL, 2, 256),
    Case(GPT2, FULL, 2, 256, EIGHT_BIT),
    Case(GPT2, FULL, 2, 256, IN_BACKWARD),
    Case(MINILM, FULL, 32, 128, task="classification"),
    Case(MINILM, LORA, 32, 128, task="classification"),
    Case(MINILM, FULL, 32, 128, EIGHT_BIT, task="classification"),
    Case(MINILM, FULL, 8, 512, checkpointed=6, task="classification"),
    Case(GPT2, FULL, 1, 256, budget=4 * 10**9),
)


def run_case(case: Case) -> dict[str, float]:
    """Predict and measure one case in this process."""
    import torch
    from benchmarks.peers.encode import model_folder

    import tunesmith
    from tunesmith.engine.checkpointing import Checkpointed
    from tunesmith.training.memory import Memory, MicroBatch, peak_bytes, resident_bytes

    imported = 0 if torch.cuda.is_available() else resident_bytes()
    engine, task = loaded(case, str(model_folder(case.model)), tunesmith)
    memory, chosen = Memory(engine), Checkpointed(case.checkpointed)
    if case.budget is not None:
        case = replace(case, documents=fitting(case, engine, memory))
    objective, batch = tunesmith.objective(task), documents(case, engine)
    estimate = memory.estimate(MicroBatch.of(batch, engine), chosen)
    engine.checkpoints.choose(chosen)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    for _ in range(_STEPS):
        engine.begin_step(1e-4)
        engine.forward_backward(batch, objective, objective.counts(batch))
        engine.optimizer_step(1e-4)
    measured = peak_bytes() if torch.cuda.is_available() else _high_water()
    found = {"documents": case.documents, "whole": float(measured)}
    parts = {name: float(size) for name, size in estimate.parts().items()}
    parts["process"] -= imported
    return {**found, "predicted": sum(parts.values()), "measured": measured - imported, **parts}


def loaded(case: Case, folder: str, tunesmith: Any) -> tuple[Any, Any]:
    """Return the engine and the task of a case."""
    labels = {"labels": ["no", "yes"]} if case.task == "classification" else {}
    made: tuple[Any, Any] = tunesmith.load(
        folder,
        task={"name": case.task, **labels},
        technique=case.technique,
        training=case.training,
    )
    return made


def documents(case: Case, engine: Any) -> Any:
    """Return the micro-batch of a case, of made-up tokens."""
    import torch

    from tunesmith.data.batch import Encoded, EncodedStream, collate

    classify = case.task == "classification"
    generator = torch.Generator().manual_seed(0)
    shape = (case.documents, case.length)
    ids = torch.randint(10, engine.model.anatomy.vocab_size, shape, generator=generator)
    weights = None if classify else (0.0,) + (1.0,) * (case.length - 1)
    rows = [
        Encoded({"text": EncodedStream(tuple(row), weights)}, label=i % 2 if classify else None)
        for i, row in enumerate(ids.tolist())
    ]
    return collate(rows)


def fitting(case: Case, engine: Any, memory: Any) -> int:
    """Return how many documents of a case are predicted to fit its budget."""
    from tunesmith.engine.checkpointing import Checkpointed
    from tunesmith.runs.plan import largest_tokens
    from tunesmith.training.memory import MicroBatch

    one = MicroBatch.of(documents(replace(case, documents=1), engine), engine)
    chosen = Checkpointed(case.checkpointed)
    tokens = largest_tokens(one, case.budget or 0, lambda s: memory.estimate(s, chosen).total)
    return (tokens or 0) // case.length


def _high_water() -> int:
    """The kernel's high-water mark of this process since it was last cleared, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(case: Case, scratch: Path) -> dict[str, Any]:
    """Run one case as a fresh process, the shape of random weights made by another before."""
    log = scratch / "log"
    command = [sys.executable, "-m", "benchmarks.memory"]
    own = {"PYTHONPATH": str(ROOT / "src")}
    run_process([*command, "--make", case.model], log, _LIMIT, own, cwd=ROOT)
    ended = run_process([*command, "--case", json.dumps(asdict(case))], log, _LIMIT, own, cwd=ROOT)
    said = json.loads(log.read_text().splitlines()[-1]) if ended.code == 0 else {}
    return {**asdict(case), **came_of(ended, log), **said}


def _earlier(out: Path) -> dict[int, dict[str, Any]]:
    """What an earlier run measured of the cases that are not asked for now, by number."""
    found = json.loads(out.read_text())["cases"] if out.exists() else []
    numbers = {_key(asdict(case)): number for number, case in enumerate(CASES)}
    return {numbers[_key(case)]: case for case in found if _key(case) in numbers}


def _key(case: dict[str, Any]) -> str:
    """What tells cases apart; how many documents fit a budget is an outcome."""
    names = set(Case.__dataclass_fields__) - ({"documents"} if case["budget"] else set())
    return json.dumps({name: case[name] for name in sorted(names)})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", type=int, nargs="*", help="numbers, from 0; others stay")
    parser.add_argument("--case", help="used inside")
    parser.add_argument("--make", help="used inside")
    options = parser.parse_args()
    if options.make:
        from benchmarks.peers.encode import model_folder

        model_folder(options.make)
        return
    if options.case:
        print(json.dumps(run_case(Case(**json.loads(options.case)))))
        return
    about = machine()
    device = "cuda" if about["hardware"]["gpu"] else "cpu"
    out = options.out or RESULTS / f"memory-{device}.json"
    report: dict[str, Any] = {
        "benchmark": "memory",
        **about,
        "calibrated": CALIBRATED,
        "date": datetime.date.today().isoformat(),
        "command": "python -m benchmarks.memory",
        "cases": [],
    }
    done = _earlier(out) if options.only is not None else {}
    with tempfile.TemporaryDirectory(prefix="tunesmith-memory-") as scratch:
        for number in range(len(CASES)) if options.only is None else options.only:
            done[number] = measure(CASES[number], Path(scratch))
            print(json.dumps(done[number]), flush=True)
            report["cases"] = [done[number] for number in sorted(done)]
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
