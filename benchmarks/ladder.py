"""The ladder: what each of Tunesmith's own switches brings, in speed and in memory.

    python -m benchmarks.ladder --records 16 --rounds 2       ──> results/ladder-KIND-cpu.json

The first rung is the plain loop: stock modules, padded batches, PyTorch's own operations. Each
further rung turns one switch on and keeps those below it. Every rung is a fresh process that learns
the same records in the same order; the rungs take turns, and the loss of the last step stands
beside the speed, for a rung that computes something else is no rung.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.__main__ import RESULTS, command_line, machine
from benchmarks.peers.measure import FINISHED, Outcome, run_reporting
from benchmarks.peers.summary import spread
from benchmarks.peers.work import Work, prepare

if TYPE_CHECKING:
    from benchmarks.switches import Switches

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: its name, and the switches that it turns on."""

    key: str
    title: str
    switches: dict[str, Any]


PLAIN = {"packing": False, "fuse": False, "compiled": False, "chunked": False, "reuse": False}
RUNGS = (
    Rung("plain", "plain loop: stock modules, padded batches", PLAIN),
    Rung("packed", "+ packed without padding, attention in blocks", {"packing": True}),
    Rung("fused", "+ fused forms: joint products, LoRA, norms, feed-forward", {"fuse": True}),
    Rung("compiled", "+ compiled element-wise kernels", {"compiled": True}),
    Rung("chunked", "+ output layer in chunks", {"chunked": True}),
    Rung("reuse", "+ memory kept and reused", {"reuse": True}),
)

FLOAT8 = Rung("float8", "+ layers that learn multiplied in 8 bits", {"float8": True})
"""Above the others on a GPU, where all weights learn; it rounds more than they do."""


def climbed(rungs: tuple[Rung, ...] = RUNGS) -> list[tuple[Rung, dict[str, Any]]]:
    """Return each rung with all the switches that are on at its height."""
    standing: dict[str, Any] = {}
    steps = []
    for rung in rungs:
        standing = {**standing, **rung.switches}
        steps.append((rung, standing))
    return steps


def run_rung(job_folder: Path, out: Path, switches: Switches) -> None:
    """Do the job with these switches, in this process, and report to `out`."""
    from benchmarks.peers.runners.report import Report
    from benchmarks.switches import engine

    import tunesmith

    job = json.loads((job_folder / "job.json").read_text())
    lora = {"name": "lora", "rank": job["rank"], "alpha": job["alpha"]}
    technique = lora if job["kind"] == "lora" else {"name": "full"}
    made, task = engine(job["path"], technique, switches, job["seed"])
    objective = tunesmith.objective(task)
    plan = tunesmith.plan(
        task,
        tunesmith.read(job_folder / "train.jsonl", task),
        batch_size=job["batch"],
        tokens_per_batch=switches.tokens_per_batch,
        epochs=job["epochs"],
        seed=job["seed"],
    )
    report, loss = Report(out), 0.0
    for number, step in enumerate(plan):
        loss = 0.0
        for batch in step:
            report.batch(batch.tokens, int((batch.text.weights_T != 0).sum()))
            terms, _ = made.forward_backward(batch, objective, step.counts)
            loss += sum(terms.values())
        made.optimizer_step(job["learning_rate"] * (1 - number / len(plan)))
    report.trained()
    report.figure("last_loss", loss)


def measure_rung(job_folder: Path, out: Path, switches: dict[str, Any], timeout: float) -> Outcome:
    """Run one rung as a fresh process and return what came of it."""
    out.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.ladder", "--rung", str(job_folder), str(out)]
    return run_reporting([*command, json.dumps(switches)], out, timeout, cwd=ROOT)


def summarise(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Return a row a rung: medians, and how many times the first rung's and the one before's."""
    rows: list[dict[str, Any]] = []
    for key in dict.fromkeys(outcome["rung"] for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome["rung"] == key]
        done = [outcome for outcome in mine if outcome["status"] == FINISHED]
        row = {"rung": key, "title": mine[0]["title"], "status": mine[0]["status"]}
        if not done:
            rows.append({**row, "error": mine[0].get("error")})
            continue
        names = ("tokens_per_second", "peak_memory_bytes", "seconds_to_finished", "last_loss")
        for name in names:
            values = [outcome[name] for outcome in done if outcome.get(name) is not None]
            if values:
                row[name] = spread(values)
        measured = [r for r in rows if "tokens_per_second" in r]
        if measured and "tokens_per_second" in row:
            for name, other in (("of_first", measured[0]), ("of_before", measured[-1])):
                ours, theirs = row["tokens_per_second"], other["tokens_per_second"]
                row[name] = ours["median"] / theirs["median"]
        rows.append(row)
    return rows


def climb(work: Work, out: Path, report: dict[str, Any], rounds: int, timeout: float) -> None:
    """Run the rungs in turns and write the report after each round."""
    outcomes: list[Outcome] = []
    rungs = (*RUNGS, FLOAT8) if (report["device"], work.kind) == ("cuda", "full") else RUNGS
    with tempfile.TemporaryDirectory(prefix="tunesmith-ladder-") as scratch:
        job_folder = Path(scratch, "job")
        job_folder.mkdir()
        job = prepare(work, job_folder)
        for number in range(rounds):
            steps = climbed(rungs) if number % 2 == 0 else climbed(rungs)[::-1]
            for rung, switches in steps:
                folder = Path(scratch, f"{rung.key}-{number}")
                found = measure_rung(job_folder, folder, switches, timeout)
                outcomes.append({"rung": rung.key, "title": rung.title, "round": number, **found})
                print(json.dumps(outcomes[-1]), flush=True)
            told = {**asdict(work), "tokens": job["tokens"], "targets": job["targets"]}
            ordered = sorted(outcomes, key=lambda o: [r.key for r in rungs].index(o["rung"]))
            rows = summarise(ordered)
            whole = {**report, "work": told, "summary": rows, "outcomes": outcomes}
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(whole, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ladder", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kind", choices=("lora", "full"), default="lora")
    parser.add_argument("--model")
    parser.add_argument("--records", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=600, help="seconds that a rung may take")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rung", nargs=3, metavar=("JOB", "OUT", "SWITCHES"), help="used inside")
    options = parser.parse_args()
    if options.rung:
        from benchmarks.switches import Switches

        job, out, switches = options.rung
        run_rung(Path(job), Path(out), replace(Switches(), **json.loads(switches)))
        return
    about = machine()
    device = "cuda" if about["hardware"]["gpu"] else "cpu"
    work = Work.of_kind(options.kind, options.records, model=options.model)
    report = {
        "benchmark": "ladder",
        **about,
        "device": device,
        "date": datetime.date.today().isoformat(),
        "command": command_line("benchmarks.ladder"),
    }
    out = options.out or RESULTS / f"ladder-{options.kind}-{device}.json"
    climb(work, out, report, options.rounds, options.timeout)


if __name__ == "__main__":
    main()
