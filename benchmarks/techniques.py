"""Every technique on every task, on the packaged models: what each brings, and what it costs.

    python benchmarks/techniques.py --out benchmarks/results/techniques.json

Short runs on the examples' data (a few optimiser steps, test sets cut to a part), so that the whole
table takes minutes on two cores; the verdicts are those of the tool. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import tunesmith
from tunesmith.console import Console
from tunesmith.runs.hardware import hardware, versions

EXAMPLES = Path(__file__).parent.parent / "examples"
TECHNIQUES: dict[str, tuple[dict[str, Any], float]] = {
    "full": ({"name": "full"}, 5e-5),
    "layers": ({"name": "layers", "last": 4}, 2e-4),
    "lora": ({"name": "lora", "rank": 16}, 2e-3),
    "repurpose": ({"name": "repurpose"}, 1e-3),
}
JOBS: dict[str, dict[str, Any]] = {
    "instruct": {
        "model": "smollm2-135m-instruct",
        "task": {"name": "instruct"},
        "data": {
            "train": str(EXAMPLES / "interface_translation/train.jsonl"),
            "test": str(EXAMPLES / "interface_translation/test.jsonl"),
        },
    },
    "language_modeling": {
        "model": "smollm2-135m-instruct",
        "task": {"name": "language_modeling", "max_length": 256},
        "data": {
            "train": str(EXAMPLES / "proposals/train"),
            "test": str(EXAMPLES / "proposals/test"),
        },
    },
    "classification, encoder": {
        "model": "minilm-l6",
        "task": "classification",
        "data": {
            "train": str(EXAMPLES / "sentiment/train.csv"),
            "test": str(EXAMPLES / "sentiment/test.csv"),
        },
    },
    "classification, decoder": {
        "model": "smollm2-135m-instruct",
        "task": "classification",
        "data": {
            "train": str(EXAMPLES / "sentiment/train.csv"),
            "test": str(EXAMPLES / "sentiment/test.csv"),
        },
    },
}


def run(job: str, technique: str, steps: int, runs_dir: str) -> dict[str, Any]:
    options, rate = TECHNIQUES[technique]
    # A new encoder head starts from nothing: it needs more steps, which a small encoder can afford.
    long = 8 if job == "classification, encoder" else 1
    recipe = {
        **JOBS[job],
        "technique": options,
        "training": {"max_steps": steps * long, "learning_rate": rate, "batch_size": 8},
        "evaluation": {"generate": 0, "probe": False},
    }
    done = tunesmith.train(recipe, name=f"{job}-{technique}".replace(", ", "-"), runs_dir=runs_dir,
                           console=Console(quiet=True))  # fmt: skip
    row = done.metrics["metrics"][done.metrics["primary"]]
    return {
        "job": job,
        "technique": technique,
        "verdict": done.verdict,
        "metric": done.metrics["primary"],
        "before": row["before"],
        "after": row["after"],
        "interval": row["interval"],
        "records": row["n"],
        "trainable_parameters": done.summary["trainable_parameters"],
        "tokens": done.summary["tokens"],
        "seconds": done.summary["seconds"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| task, model | technique | metric | before | after | 95% interval of the difference |"
        " verdict | learns | tokens | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['job']} | `{r['technique']}` | {r['metric']} |"
        f" {r['before']:.3f} | {r['after']:.3f} |"
        f" {r['interval'][0]:+.3f} to {r['interval'][1]:+.3f} | {r['verdict']} |"
        f" {r['trainable_parameters']:,} | {r['tokens']:,} | {r['seconds']:.0f} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--jobs", nargs="*", choices=JOBS, default=list(JOBS))
    parser.add_argument("--out", type=Path, help="results; rows that it holds are kept")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.out and options.out.exists():
        rows = json.loads(options.out.read_text())["rows"]
    known = {(row["job"], row["technique"]) for row in rows}
    for job in options.jobs:
        for technique in TECHNIQUES:
            fits = technique != "repurpose" or job.startswith("classification")
            if not fits or (job, technique) in known:
                continue
            folder = tempfile.mkdtemp()
            rows.append(run(job, technique, options.steps, folder))
            shutil.rmtree(folder)
            print(json.dumps(rows[-1]), flush=True)
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                about = {"hardware": hardware(), "versions": versions(), "steps": options.steps}
                options.out.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
