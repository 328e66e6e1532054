"""Compare Tunesmith with other tools: `python -m benchmarks.peers lora --records 16 --rounds 2`.

Makes the peers' environments where they are missing, prepares the work, runs every side in turns as
a fresh process, scores what they saved, and writes `results/peers-KIND-MODEL-DEVICE.json` after
each round. `python -m benchmarks.tables` makes tables and plots of it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers import environments as envs
from benchmarks.peers.measure import run_rounds
from benchmarks.peers.sides import OURS, Side, sides_for
from benchmarks.peers.summary import summarise
from benchmarks.peers.work import DATA, KINDS, Work, prepare

RESULTS = Path(__file__).parent.parent / "results"
ROOT = Path(__file__).parents[2]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--model", help="a name, a folder, or random:SHAPE (see shapes.py)")
    parser.add_argument("--data", choices=DATA, help="records; default: alpaca, or sentiment")
    parser.add_argument("--records", type=int, default=16)
    parser.add_argument("--held-out", type=int, help="records of the final loss")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--timeout", type=float, default=600, help="seconds that a side may take")
    parser.add_argument("--sides", nargs="*", help="keys of sides.py; default: all for the device")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: what is here")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--prepare", action="store_true", help="only make the environments")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    about = machine()
    device = chosen.device or ("cuda" if about["hardware"]["gpu"] else "cpu")
    sides = sides_for(chosen.kind, device, chosen.sides)
    found = find_environments(sides)
    if chosen.prepare:
        for environment in found.values():
            print(environment.peer, environment.versions or environment.failure)
        return
    work = Work.of_kind(
        chosen.kind,
        chosen.records,
        model=chosen.model,
        epochs=chosen.epochs,
        held_out=chosen.held_out,
        data=chosen.data,
    )
    name = work.model.replace("random:", "").replace("/", "-").strip("-")
    kind = work.kind if work.data == DATA[0] else f"{work.kind}-{work.data}"
    out = chosen.out or RESULTS / f"peers-{kind}-{name}-{device}.json"
    report = {
        "benchmark": "peers",
        **about,
        "device": device,
        "date": datetime.date.today().isoformat(),
        "command": command_line("benchmarks.peers"),
        "environments": {name: _published(each) for name, each in found.items()},
    }
    compare(work, sides, found, out, report, rounds=chosen.rounds, timeout=chosen.timeout)


def find_environments(sides: Sequence[Side]) -> dict[str, envs.Environment]:
    """Return the environment of each side's peer, made now where it is missing."""
    peers = dict.fromkeys(side.peer for side in sides)
    return {name: envs.own() if name == OURS else envs.ensure(envs.PEERS[name]) for name in peers}


def compare(
    work: Work,
    sides: Sequence[Side],
    environments: Mapping[str, envs.Environment],
    out: Path,
    report: Mapping[str, Any],
    *,
    rounds: int,
    timeout: float,
) -> dict[str, Any]:
    """Do the work on every side, and write the report after each round."""
    outcomes: list[dict[str, Any]] = []
    whole: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tunesmith-peers-") as scratch:
        job_folder = Path(scratch, "job")
        job_folder.mkdir()
        job = prepare(work, job_folder)
        told = {**asdict(work), **{name: job[name] for name in ("tokens", "targets", "longest")}}

        def score(outs: Sequence[Path]) -> dict[str, dict[str, float]]:
            return score_results(job_folder, outs)

        for found in run_rounds(
            sides,
            environments,
            job_folder,
            Path(scratch, "sides"),
            rounds=rounds,
            timeout=timeout,
            score=score,
        ):
            outcomes += found
            whole = {
                **report,
                "timeout": timeout,
                "work": told,
                "summary": summarise(outcomes, told),
                "outcomes": outcomes,
            }
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(whole, indent=2) + "\n")
    return whole


def score_results(job_folder: Path, outs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Score in a process of its own, since this one imports no torch."""
    if not outs:
        return {}
    command = [sys.executable, "-m", "benchmarks.peers.scoring", str(job_folder), *map(str, outs)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"scoring failed:\n{done.stderr}")
    scores: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return scores


def command_line(module: str) -> str:
    """Return what was typed, without where the results go."""
    words = sys.argv[1:]
    if "--out" in words:
        place = words.index("--out")
        del words[place : place + 2]
    return " ".join(["python -m", module, *words])


def machine() -> dict[str, Any]:
    """Return processor, instruction sets, threads and versions, asked of a process of its own."""
    script = (
        "import json; from tunesmith.runs.hardware import hardware, versions;"
        "print(json.dumps({'hardware': hardware(), 'versions': versions()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ
    )
    about: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return about


def _published(environment: envs.Environment) -> dict[str, Any]:
    """What is kept of an environment in the results: no paths of this machine."""
    told = asdict(environment)
    del told["python"]
    return {name: value for name, value in told.items() if value}


if __name__ == "__main__":
    main()
