"""Techniques side by side on the packaged models: what each brings, what it costs, what it forgets.

    python -m benchmarks.techniques                      # every technique that can, on every job
    python -m benchmarks.techniques --jobs instruct --techniques lora full

In: the examples' data and real models. Out: `results/techniques.json`, a row a cell, written as
they end; a cell that it holds is not run again. Each cell is a `tunesmith train` of its own, in a
fresh process, so that its peak of memory is its own; verdicts and figures are those of the run.
Within a job all learn from the same records in the same order. Learning rates are of the size that
`docs/how-to/choose-a-technique.md` begins with: nothing is searched for anyone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.__main__ import RESULTS, command_line, machine

EXAMPLES = Path(__file__).parent.parent / "examples"
OUT = RESULTS / "techniques.json"
DECODER, ENCODER = "smollm2-135m-instruct", "minilm-l6"


@dataclass(frozen=True)
class Candidate:
    """A technique with its options, and the learning rate that it is given."""

    title: str
    options: dict[str, Any]
    learning_rate: float


@dataclass(frozen=True)
class Job:
    """What is learnt by all: the recipe without its technique.

    Attributes:
        with_head: whether a head is learnt, as `repurpose` needs.
        test_lines: so many lines of the test file are measured; all, unless given.
    """

    recipe: dict[str, Any]
    with_head: bool = False
    test_lines: int | None = None

    def takes(self, candidate: Candidate) -> bool:
        """Whether the candidate is for this job: `repurpose` needs a head to learn."""
        return self.with_head or candidate.options["name"] != "repurpose"


CANDIDATES = {
    candidate.title: candidate
    for candidate in (
        Candidate("full", {"name": "full"}, 5e-5),
        Candidate("full, layer by layer", {"name": "full", "gradual": 0.5}, 5e-5),
        Candidate("galore", {"name": "galore"}, 5e-4),
        Candidate("lisa", {"name": "lisa", "every": 5}, 5e-5),
        Candidate("layers, last 4", {"name": "layers", "last": 4}, 2e-4),
        Candidate("layers, best 4", {"name": "layers", "find": "gradient", "count": 4}, 2e-4),
        Candidate("layers, biases and norms", {"name": "layers", "only": "biases_and_norms"}, 5e-3),
        Candidate("lora", {"name": "lora", "rank": 16}, 2e-3),
        Candidate("lora, DoRA", {"name": "lora", "rank": 16, "dora": True}, 2e-3),
        Candidate("lora, PiSSA", {"name": "lora", "rank": 16, "initial": "pissa"}, 5e-4),
        Candidate("lora, LoRA+", {"name": "lora", "rank": 16, "b_rate": 8}, 1e-3),
        Candidate("adalora", {"name": "adalora"}, 5e-3),
        Candidate("vera", {"name": "vera"}, 1e-2),
        Candidate("ia3", {"name": "ia3"}, 1e-2),
        Candidate("oft", {"name": "oft"}, 1e-3),
        Candidate("boft", {"name": "boft"}, 1e-3),
        Candidate("prompt_tuning", {"name": "prompt_tuning"}, 1e-1),
        Candidate("p_tuning", {"name": "p_tuning"}, 5e-3),
        Candidate("prefix_tuning", {"name": "prefix_tuning"}, 1e-2),
        Candidate("repurpose", {"name": "repurpose"}, 1e-3),
    )
}


def _data(folder: str, ending: str) -> dict[str, str]:
    return {part: str(EXAMPLES / folder / f"{part}{ending}") for part in ("train", "test")}


JOBS = {
    "instruct": Job(
        {
            "model": DECODER,
            "task": {"name": "instruct"},
            "data": _data("interface_translation", ".jsonl"),
            "training": {"max_steps": 12, "batch_size": 8},
        },
        test_lines=80,
    ),
    "classification, encoder": Job(
        {
            "model": ENCODER,
            "task": "classification",
            "data": _data("sentiment", ".csv"),
            "training": {"max_steps": 75, "batch_size": 16},
        },
        with_head=True,
    ),
    "classification, decoder": Job(
        {
            "model": DECODER,
            "task": "classification",
            "data": _data("sentiment", ".csv"),
            "training": {"max_steps": 30, "batch_size": 16},
        },
        with_head=True,
    ),
    "language_modeling": Job(
        {
            "model": DECODER,
            "task": {"name": "language_modeling", "max_length": 256},
            "data": _data("proposals", ""),
            "training": {"max_steps": 5, "batch_size": 8},
        }
    ),
}
FEW = ("full", "layers, last 4", "lora", "repurpose")
"""What the jobs on the decoder that take longest are given, unless others are named."""
WHOLE = ("instruct", "classification, encoder")


def cells(jobs: list[str], titles: list[str] | None) -> Iterator[tuple[str, Candidate]]:
    """Yield what is to be run: the techniques named, else all that are for the job."""
    for name in jobs:
        for title in titles or (CANDIDATES if name in WHOLE else FEW):
            if JOBS[name].takes(CANDIDATES[title]):
                yield name, CANDIDATES[title]


def run(name: str, candidate: Candidate) -> dict[str, Any]:
    """Train one cell in a process of its own, and return its row.

    Raises:
        SystemExit: the run did not end well; with its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe = filled(JOBS[name], candidate, Path(folder))
        (Path(folder) / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "tunesmith", "train", "recipe.yaml", "--name", "cell"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(f"{name}, {candidate.title}: {ended.stderr or ended.stdout}")
        return {"job": name, "technique": candidate.title, **figures(Path(folder) / "runs/cell")}


def filled(job: Job, candidate: Candidate, folder: Path) -> dict[str, Any]:
    """Return the recipe of a cell, its test file cut within `folder` where the job says so."""
    data = dict(job.recipe["data"])
    if job.test_lines:
        lines = Path(data["test"]).read_text(encoding="utf-8").splitlines(keepends=True)
        cut = folder / Path(data["test"]).name
        cut.write_text("".join(lines[: job.test_lines]), encoding="utf-8")
        data["test"] = str(cut)
    return {
        **job.recipe,
        "data": data,
        "technique": candidate.options,
        "training": {**job.recipe["training"], "learning_rate": candidate.learning_rate},
        "evaluation": {"generate": 0},
    }


def figures(run_dir: Path) -> dict[str, Any]:
    """Return what the table shows of a finished run."""
    summary = json.loads((run_dir / "summary.json").read_text("utf-8"))
    verdict = json.loads((run_dir / "evaluation/metrics.json").read_text("utf-8"))
    primary, probe = verdict["metrics"][verdict["primary"]], verdict["probe"]
    return {
        "verdict": verdict["verdict"],
        "metric": verdict["primary"],
        **{key: primary[key] for key in ("before", "after", "interval", "n")},
        "general": probe and {key: probe[key] for key in ("before", "after", "worse")},
        "trainable_parameters": summary["trainable_parameters"],
        "tokens": summary["tokens"],
        "seconds": summary["seconds"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
    }


def main() -> None:
    """Run the cells that are wanted and not yet there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", nargs="*", choices=JOBS, default=list(JOBS))
    parser.add_argument("--techniques", nargs="*", choices=CANDIDATES)
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    rows = json.loads(chosen.out.read_text("utf-8"))["rows"] if chosen.out.exists() else []
    about = {**machine(), "command": command_line("benchmarks.techniques")}
    known = {(row["job"], row["technique"]) for row in rows}
    for name, candidate in cells(chosen.jobs, chosen.techniques):
        if (name, candidate.title) in known:
            continue
        rows.append(run(name, candidate))
        print(json.dumps(rows[-1]), flush=True)
        report = {"benchmark": "techniques", **about, "rows": rows}
        chosen.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
