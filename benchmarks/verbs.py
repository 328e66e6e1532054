"""Preferences, rollouts and encoder-decoders at the verbs: `python -m benchmarks.verbs`.

    made-up work (`verb_work.py`), by each side (`verb_sides.py`) ──> results/verbs-cpu.json

For batches that no peer's command takes as they are: pairs that share a prompt (DPO), groups of
answers to one prompt (a policy gradient, as in GRPO), sources with targets. Every side is a fresh
process that makes the same steps of the same tokens; sides take turns. Tokens are those of the
texts, each prompt as often as it has answers, padding not counted; the first step warms up and is
left out. The loss of the last step stands beside the speed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.__main__ import RESULTS, command_line, machine
from benchmarks.peers.measure import FINISHED, Outcome, run_reporting
from benchmarks.peers.summary import spread
from benchmarks.verb_work import KINDS, WORK, flat

ROOT = Path(__file__).parents[1]
SIDES = {
    "tunesmith": "Tunesmith",
    "padded": "transformers, one padded batch",
    "single": "transformers, one group at a time",
}


def run_steps(kind: str, name: str, steps: int, out: Path) -> None:
    """Make the steps in this process, and report to `out`."""
    from benchmarks.peers.runners.report import Report
    from benchmarks.verb_sides import side

    step, report, loss = side(kind, name), Report(out), 0.0
    for seed in range(steps):
        groups = WORK[kind].step(seed)
        texts = flat(groups)
        report.batch(sum(text.tokens for text in texts), sum(len(text.answer) for text in texts))
        loss = step(groups)
    report.trained()
    report.figure("last_loss", loss)


def measure(kind: str, name: str, steps: int, out: Path, timeout: float) -> Outcome:
    """Run one side as a fresh process and return what came of it."""
    out.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.verbs", "--side", kind, name, str(steps), str(out)]
    return run_reporting(command, out, timeout, cwd=ROOT)


def summarise(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Return a row a kind and side: medians, and how many times Tunesmith's speed is the side's."""
    rows: list[dict[str, Any]] = []
    for kind, name in dict.fromkeys((o["kind"], o["side"]) for o in outcomes):
        mine = [o for o in outcomes if (o["kind"], o["side"]) == (kind, name)]
        done = [o for o in mine if o["status"] == FINISHED]
        row: dict[str, Any] = {"kind": kind, "side": name, "title": SIDES[name]}
        if not done:
            rows.append({**row, "status": mine[0]["status"], "error": mine[0].get("error")})
            continue
        row["status"] = FINISHED
        for figure in ("tokens_per_second", "peak_memory_bytes", "last_loss"):
            row[figure] = spread([o[figure] for o in done])
        ours = {
            o["round"]: o["tokens_per_second"]
            for o in outcomes
            if o["kind"] == kind and o["side"] == "tunesmith" and o["status"] == FINISHED
        }
        ratios = [ours[o["round"]] / o["tokens_per_second"] for o in done if o["round"] in ours]
        if name != "tunesmith" and ratios:
            row["faster"] = spread(ratios)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verbs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=300, help="seconds that a side may take")
    parser.add_argument("--out", type=Path, default=RESULTS / "verbs-cpu.json")
    parser.add_argument("--side", nargs=4, metavar=("KIND", "SIDE", "STEPS", "OUT"), help="inside")
    options = parser.parse_args()
    if options.side:
        kind, name, steps, out = options.side
        run_steps(kind, name, int(steps), Path(out))
        return
    report = {
        "benchmark": "verbs",
        **machine(),
        "date": datetime.date.today().isoformat(),
        "command": command_line("benchmarks.verbs"),
        "steps": options.steps,
    }
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="tunesmith-verbs-") as scratch:
        for number in range(options.rounds):
            for kind in options.kinds:
                for name in SIDES if number % 2 == 0 else reversed(SIDES):
                    out = Path(scratch, f"{kind}-{name}-{number}")
                    found = measure(kind, name, options.steps, out, options.timeout)
                    outcomes.append({"kind": kind, "side": name, "round": number, **found})
                    print(json.dumps(outcomes[-1]), flush=True)
            ordered = sorted(
                outcomes, key=lambda o: (KINDS.index(o["kind"]), list(SIDES).index(o["side"]))
            )
            whole = {**report, "summary": summarise(ordered), "outcomes": outcomes}
            options.out.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
