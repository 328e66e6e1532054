"""What came of each cell of the whole matrix: kept from run to run, and told as a table.

    python -m tests.acceptance.outcomes     writes docs/reference/matrix.md of what is kept

Outcomes are kept with the digest of the code that they were found with; other code begins anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".matrix" / "outcomes.jsonl"
TABLE = ROOT / "docs" / "reference" / "matrix.md"

Cell = tuple[str, str, str]


@dataclass(frozen=True)
class Outcome:
    """What came of a cell: `trained`, `refused` or `failed`, why, and in how many seconds."""

    technique: str
    task: str
    family: str
    came: str
    why: str
    seconds: float

    @property
    def cell(self) -> Cell:
        return self.technique, self.task, self.family


class Outcomes:
    """The outcomes that were found with the code as it is now."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @cached_property
    def code(self) -> str:
        """Return the digest of what is tried: the package and the tiny models."""
        source, tests = ROOT / "src", ROOT / "tests"
        kinds = ("*.py", "*.c", "*.cpp", "*.h")
        files = [*(f for kind in kinds for f in source.rglob(kind)), tests / "tiny.py"]
        parts = (f"{f.relative_to(ROOT)}\0".encode() + f.read_bytes() for f in sorted(files))
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]

    @cached_property
    def found(self) -> dict[Cell, Outcome]:
        """Return the last outcome of each cell."""
        rows = map(json.loads, self.file.read_text().splitlines()) if self.file.exists() else ()
        outcomes = (Outcome(**row["outcome"]) for row in rows if row["code"] == self.code)
        return {outcome.cell: outcome for outcome in outcomes}

    def settled(self, cell: Cell) -> bool:
        """Return whether a cell needs no other try."""
        return cell in self.found and self.found[cell].came != "failed"

    def add(self, outcome: Outcome) -> None:
        """Keep one more, in one write, so that several processes may."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        row = json.dumps({"code": self.code, "outcome": asdict(outcome)}) + "\n"
        end = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(end, row.encode())
        os.close(end)


def page(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a page: a table for each task, and the reasons of refusals."""
    reasons = list(dict.fromkeys(o.why for o in outcomes if o.came == "refused"))
    signs = {
        o.cell: {"trained": "✓", "failed": "✗"}.get(o.came) or f"[{reasons.index(o.why) + 1}]"
        for o in outcomes
    }
    counts = {came: sum(o.came == came for o in outcomes) for came in ("trained", "refused")}
    parts = [
        "# Techniques, tasks and families\n",
        "Tiny random models (hidden size 32, two layers) of each family. ✓: it trained, changed"
        " only what it should, was saved, and the ecosystem's own loader gave the same answers. A"
        " number: it was refused before training, for the reason below. `make matrix` runs all of"
        " it again.\n",
        f"{len(outcomes)} cells: {counts['trained']} trained, {counts['refused']} refused,"
        f" {len(outcomes) - sum(counts.values())} failed.\n",
    ]
    for task in sorted({o.task for o in outcomes}):
        parts += [f"## {task}\n", _table(task, signs), ""]
    parts.append("## Reasons\n")
    parts += [f"{place}. {reason}" for place, reason in enumerate(reasons, 1)]
    return "\n".join(parts) + "\n"


def _table(task: str, signs: dict[Cell, str]) -> str:
    families = list(dict.fromkeys(family for _, _, family in signs))
    techniques = list(dict.fromkeys(technique for technique, _, _ in signs))
    rows: Iterable[Sequence[str]] = [
        ("technique", *families),
        ("---", *[":-:" for _ in families]),
        *(
            (f"`{technique}`", *(signs.get((technique, task, f), "") for f in families))
            for technique in techniques
        ),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    found = Outcomes(KEPT).found
    TABLE.write_text(page([found[cell] for cell in sorted(found)]), encoding="utf-8")
