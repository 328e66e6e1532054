"""What the tables are made of: rows, figures with their range, and what the rest is called.

The words for a job, a machine, a side that failed and a peer that was refused are the same in every
table (`tables.py`), so they stand here; which figures a table shows is no matter of this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]
GIB = 2**30


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def number(value: Mapping[str, float] | None, form: str = ".0f", scale: float = 1.0) -> str:
    """Return a median, with its range where the rounds differ."""
    if value is None:
        return "–"
    median, least, most = (value[name] / scale for name in ("median", "least", "most"))
    shown = f"{median:{form}}"
    low, high = f"{least:{form}}", f"{most:{form}}"
    return shown if low == high else f"{shown} ({low}–{high})"


def times(value: Mapping[str, float] | None) -> str:
    """Return a ratio."""
    return "–" if value is None else number(value, ".2f") + " ×"


def failure_note(row: Report) -> str:
    """What happened to a side that did not finish, and what it had reached."""
    said = str(row.get("error") or "").strip().splitlines()
    reached = []
    if row.get("stopped_after_seconds"):
        reached.append(f"ended after {row['stopped_after_seconds']:.0f} s")
    if row.get("tokens"):
        reached.append(f"it had read {row['tokens']:,} tokens in {row['batches']} micro-batches")
    lines = [f"**{row['title']}**: {row['status']}" + "".join(f"; {part}" for part in reached)]
    if said:
        lines += ["", "```text", *said[-4:], "```"]
    return "\n".join(lines)


def refusals(report: Report) -> list[str]:
    """What was refused of peers that did install, in another version."""
    notes = []
    for name, found in report.get("environments", {}).items():
        if found.get("removed"):
            gone = ", ".join(found["removed"])
            notes.append(f"{name}: {gone} do not load beside this build of torch; taken out.")
        if found.get("failure") and found.get("requirements"):
            said = [line for line in found["failure"].splitlines() if line.strip()]
            got = " ".join(found["requirements"])
            notes.append(f"{name}: {got}, since `{said[0].lstrip('$ ')}` ended with `{said[-1]}`.")
    return notes


def job_line(report: Report) -> str:
    """What was done to which model, on which machine, when and by which command."""
    work, hardware = report["work"], report["hardware"]
    provenance = report.get("provenance", f"`{report.get('command')}`")
    what = f"{work['kind']} on {work['model']}: {work['records']} records"
    what += f" of {work['data']}" if work.get("data", "alpaca") != "alpaca" else ""
    if work.get("tokens"):
        what += f", {work['tokens']:,} tokens"
    if work.get("targets"):
        what += f", {work['targets']:,} of them learnt"
    what += f"; {work['epochs']} epoch(s), {work['batch']} records a step."
    return f"{what} {machine_line(hardware)}, {report['date']}, {provenance}."


def machine_line(hardware: Report) -> str:
    """The device: the GPU, or the processor with its threads and vector extensions."""
    features = ", ".join(hardware.get("features") or []) or "no vector extensions known here"
    device = hardware.get("gpu") or f"{hardware['cpu']}, {hardware['threads']} threads, {features}"
    return str(device)
