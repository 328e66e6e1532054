"""How Tunesmith scales: tokens/s and peak memory against length, batch, model size and cores.

    python -m benchmarks.scaling --curves length batch      ──> results/scaling-KIND-cpu.json

Each point is a fresh process that learns every token of made-up documents: one step to warm up,
then `--steps` that count. One thing is varied at a time; the others stay at the point's defaults.
On a CPU lengths go to 4,096 tokens; on a GPU to 32,768.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.peers.__main__ import RESULTS, command_line, machine
from benchmarks.peers.measure import Outcome, run_reporting

ROOT = Path(__file__).parents[1]
MODELS = ("random:smollm2-135m", "random:smollm2-360m", "random:smollm2-1.7b")


@dataclass(frozen=True)
class Point:
    """What one process measures: `documents` of `length` tokens in one micro-batch a step."""

    model: str = MODELS[0]
    kind: str = "lora"
    length: int = 256
    documents: int = 4
    threads: int = 0
    steps: int = 2
    rank: int = 16


def curves(base: Point, device: str, cores: int) -> dict[str, list[Point]]:
    """Return the points of each curve."""
    longest = 15 if device == "cuda" else 12
    lengths = [2**power for power in range(7 if device == "cpu" else 9, longest + 1)]
    threads = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= cores]
    return {
        "length": [replace(base, length=length, documents=1) for length in lengths],
        "batch": [replace(base, documents=documents) for documents in (1, 2, 4, 8, 16)],
        "model": [replace(base, model=model) for model in MODELS],
        "cores": [replace(base, threads=n) for n in threads],
    }


def run_point(point: Point, out: Path) -> None:
    """Measure one point in this process, and report to `out`."""
    import torch

    if point.threads:
        torch.set_num_threads(point.threads)
    from benchmarks.peers.encode import model_folder
    from benchmarks.peers.runners.report import Report
    from benchmarks.switches import Switches, engine

    from tunesmith.data.batch import Encoded, EncodedStream, collate
    from tunesmith.objectives.token_likelihood import TokenLikelihood

    lora = {"name": "lora", "rank": point.rank}
    technique = lora if point.kind == "lora" else {"name": "full"}
    made, _ = engine(str(model_folder(point.model)), technique, Switches())
    generator = torch.Generator().manual_seed(0)
    shape = (point.documents, point.length)
    ids = torch.randint(10, made.model.anatomy.vocab_size, shape, generator=generator)
    weights = (0.0,) + (1.0,) * (point.length - 1)
    rows = [Encoded({"text": EncodedStream(tuple(row), weights)}) for row in ids.tolist()]
    batch, objective, report = collate(rows), TokenLikelihood(), Report(out)
    for _ in range(1 + point.steps):
        report.batch(batch.tokens, int((batch.text.weights_T != 0).sum()))
        made.forward_backward(batch, objective, objective.counts(batch))
        made.optimizer_step(1e-4)
    report.trained()


def measure(point: Point, scratch: Path, timeout: float) -> Outcome:
    """Measure one point as a fresh process."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        out = Path(folder)
        command = [sys.executable, "-m", "benchmarks.scaling", "--point", json.dumps(asdict(point))]
        threads = {"OMP_NUM_THREADS": str(point.threads)} if point.threads else {}
        return run_reporting([*command, str(out)], out, timeout, threads, ROOT)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--curves", nargs="*", default=["length", "batch", "model", "cores"])
    parser.add_argument("--kind", choices=("lora", "full"), default="lora")
    parser.add_argument("--model", default=MODELS[0])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=300, help="seconds that a point may take")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--point", nargs=2, metavar=("POINT", "OUT"), help="used inside")
    options = parser.parse_args()
    if options.point:
        run_point(Point(**json.loads(options.point[0])), Path(options.point[1]))
        return
    about = machine()
    device = "cuda" if about["hardware"]["gpu"] else "cpu"
    base = Point(model=options.model, kind=options.kind, steps=options.steps)
    every = curves(base, device, os.cpu_count() or 1)
    out = options.out or RESULTS / f"scaling-{options.kind}-{device}.json"
    report: dict[str, Any] = {
        "benchmark": "scaling",
        **about,
        "device": device,
        "date": datetime.date.today().isoformat(),
        "command": command_line("benchmarks.scaling"),
        "curves": {},
    }
    with tempfile.TemporaryDirectory(prefix="tunesmith-scaling-") as scratch:
        for name in options.curves:
            found = report["curves"].setdefault(name, [])
            for point in every[name]:
                found.append({**asdict(point), **measure(point, Path(scratch), options.timeout)})
                print(json.dumps(found[-1]), flush=True)
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
