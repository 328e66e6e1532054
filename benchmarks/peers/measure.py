"""Run the sides in turns, each as a fresh process, and write down what happened to each.

    run_rounds(sides, job_folder, …) ──> outcomes      one a side and round, failures among them

Time to finished counts from the start of the process until it has ended, its result on disk:
imports, loading, encoding, compilation, training, saving. Peak memory is the kernel's high-water
mark of the largest process of the side. Nothing here imports torch: a child's mark begins at what
its parent held.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import Environment, last_lines
from benchmarks.peers.sides import Side

RUNNERS = Path(__file__).parent / "runners"
FINISHED, FAILED, TIMED_OUT = "finished", "failed", "timed out"
NOT_INSTALLED, NOT_REPEATED = "not installed", "not repeated"
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "WANDB_DISABLED": "true",
    "DO_NOT_TRACK": "1",
}

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """How a process ended; `code` is None where it was stopped for taking too long.

    `began` is of the machine's monotonic clock, as the marks are.
    """

    code: int | None
    began: float
    seconds: float
    peak_bytes: int


def run_process(
    command: Sequence[str],
    log: Path,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Ended:
    """Run a command to its end, in a process group of its own that is stopped after `timeout` s."""
    with log.open("w") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**_inherited(), **(environment or {})},
            cwd=cwd,
        )
        try:
            ended = _wait(process, began, timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        process.returncode = -1 if ended.code is None else ended.code
    return ended


def _wait(process: subprocess.Popen[bytes], began: float, timeout: float) -> Ended:
    unit = 1 if sys.platform == "darwin" else 1024
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.monotonic() - began
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return Ended(code, began, seconds, usage.ru_maxrss * unit)
        if seconds > timeout:
            os.killpg(process.pid, signal.SIGKILL)
            _, _, usage = os.wait4(process.pid, 0)
            return Ended(None, began, seconds, usage.ru_maxrss * unit)
        time.sleep(0.02)


def run_reporting(
    command: Sequence[str],
    out: Path,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Outcome:
    """Run a command that reports its marks to `out`, as a fresh process; say what came of it."""
    ended = run_process(command, out / "log", timeout, environment, cwd)
    outcome = of_marks(read_marks(out), ended)
    return {**outcome, **came_of(ended, out / "log")}


def came_of(ended: Ended, log: Path) -> Outcome:
    """Return how a process ended: its status and, where it did not finish, its last words."""
    if ended.code == 0:
        return {"status": FINISHED}
    status = TIMED_OUT if ended.code is None else FAILED
    return {"status": status, "error": last_words(ended, log)}


def run_side(
    side: Side, where: Environment, job_folder: Path, out: Path, timeout: float
) -> Outcome:
    """Run one side once; `out` gets its marks, its logs and its result under `model`."""
    if where.python is None:
        return {"status": NOT_INSTALLED, "error": where.failure}
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    outcome = Outcome()
    for stage in side.stages:
        script = str(RUNNERS / f"{side.runner}.py")
        settings = json.dumps(dict(side.settings))
        command = [where.python, script, str(job_folder), str(out), settings, stage]
        log = out / f"{stage}.log"
        ended = run_process(command, log, timeout, {**_OFFLINE, "HF_HOME": str(out / "home")})
        if stage == "train":
            outcome = of_marks(read_marks(out), ended)
        if ended.code != 0:
            return {**outcome, "stage": stage, **came_of(ended, log)}
    return {**outcome, "status": FINISHED}


def run_rounds(
    sides: Sequence[Side],
    environments: Mapping[str, Environment],
    job_folder: Path,
    scratch: Path,
    *,
    rounds: int,
    timeout: float,
    score: Callable[[Sequence[Path]], Mapping[str, Mapping[str, float]]],
) -> Iterator[list[Outcome]]:
    """Yield the outcomes of each round, scored; the order turns round from one to the next.

    A side that did not finish is not run again: the later rounds say so.
    """
    gone: dict[str, str] = {}
    for number in range(rounds):
        outcomes = []
        for side in sides if number % 2 == 0 else list(reversed(sides)):
            about = {"side": side.key, "title": side.title, "round": number}
            if side.key in gone:
                outcomes.append({**about, "status": NOT_REPEATED, "error": gone[side.key]})
                continue
            out = scratch / side.key
            found = run_side(side, environments[side.peer], job_folder, out, timeout)
            if found["status"] != FINISHED:
                gone[side.key] = f"{found['status']} in the first round"
            outcomes.append({**about, **found})
            _tell(outcomes[-1])
        finished = [scratch / o["side"] for o in outcomes if o["status"] == FINISHED]
        scores = score(finished)
        for outcome in outcomes:
            outcome.update(scores.get(outcome["side"], {}))
        for folder in finished:
            shutil.rmtree(folder)
        yield outcomes


def last_words(ended: Ended, log: Path) -> str:
    """Return the end of what a process said, and by which signal it ended, if by one."""
    said = last_lines(log.read_text(errors="replace"))
    if ended.code is None or ended.code >= 0:
        return said
    return f"{said}\nended by {signal.Signals(-ended.code).name}"


def of_marks(marks: Sequence[Mapping[str, Any]], ended: Ended) -> Outcome:
    """Return what a side's own marks say, beside what was seen from outside."""
    batches = [mark for mark in marks if mark["event"] == "batch"]
    ends = [mark["at"] for mark in marks if mark["event"] == "trained"]
    notes = [mark["text"] for mark in marks if mark["event"] == "note"]
    gpu = [mark["gpu_peak_bytes"] for mark in marks if "gpu_peak_bytes" in mark]
    figures = {m["name"]: m["value"] for m in marks if m["event"] == "figure"}
    outcome: Outcome = {
        **figures,
        "tokens": sum(mark["tokens"] for mark in batches),
        "targets": sum(mark["targets"] for mark in batches),
        "batches": len(batches),
        "seconds_to_first_batch": batches[0]["at"] - ended.began if batches else None,
        "tokens_per_second": _steady(batches, ends[-1] if ends else None),
        "peak_memory_bytes": ended.peak_bytes,
    }
    if ended.code == 0:
        outcome["seconds_to_finished"] = ended.seconds
    else:
        outcome["stopped_after_seconds"] = ended.seconds
    if gpu:
        outcome["gpu_peak_bytes"] = max(gpu)
    if notes:
        outcome["notes"] = notes
    return outcome


def _steady(batches: Sequence[Mapping[str, Any]], end: float | None) -> float | None:
    """Tokens a second without the first micro-batch, in which things are compiled and allocated.

    Where the side did not reach its end, of what lies between the second mark and the last.
    """
    if end is None:
        whole, until = batches[1:-1], batches[-1]["at"] if batches else 0.0
    else:
        whole, until = (batches[1:] if len(batches) > 1 else batches), end
    if not whole or until <= whole[0]["at"]:
        return None
    tokens: int = sum(mark["tokens"] for mark in whole)
    return tokens / (until - float(whole[0]["at"]))


def read_marks(out: Path) -> list[dict[str, Any]]:
    """Return the marks that a side wrote into `out`; one that was cut off is left out."""
    path = out / "marks.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def _inherited() -> dict[str, str]:
    """This process's environment, without what would lead a peer to packages of ours."""
    return {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def _tell(outcome: Mapping[str, Any]) -> None:
    names = ("side", "round", "status", "seconds_to_finished", "tokens_per_second", "error")
    print(json.dumps({name: outcome[name] for name in names if outcome.get(name)}), flush=True)
