"""Wrong labels: how many that were flipped on purpose are found, and what cleaning them brings.

    python -m benchmarks.wrong_labels

The training sentences of `examples/sentiment`, a tenth of their labels flipped at random, three
times with other seeds. `check --deep` sees only the flipped ones. Recall is the share of the
flipped that is found, precision the share of the found that was flipped; what was wrong in the
original counts as a false find, so precision is a lower bound. Accuracy is that of the repurposed
encoder on the example's own test sentences, learnt from the flipped labels, and from what `clean`
makes of them.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.console import Console
from tunesmith.data.dataset import Dataset, load_dataset
from tunesmith.data.records import LabelledText
from tunesmith.models.logistic import Samples, fit_logistic
from tunesmith.runs.clean import SURE
from tunesmith.runs.deep import Records, wrong_labels
from tunesmith.runs.hardware import hardware
from tunesmith.runs.vectors import ENCODER, vectors_of

HERE = Path(__file__).parent
SENTIMENT = HERE.parent / "examples" / "sentiment"
FLIPPED = 0.1
SEEDS = (0, 1, 2)
LEVELS = (0.6, 0.7, 0.8, 0.9)


def records(name: str) -> Dataset:
    """Return the example's training or test sentences."""
    return load_dataset([str(SENTIMENT / f"{name}.csv")], LabelledText)


def flip(data: Dataset, seed: int) -> tuple[Dataset, set[int]]:
    """Return the records with a tenth of their labels flipped, and the places of these."""
    names = sorted({record.label for record in data.records})
    draw = np.random.default_rng(seed)
    count = round(FLIPPED * len(data))
    places = {int(place) for place in draw.choice(len(data), count, replace=False)}
    changed = [
        record.model_copy(update={"label": names[1 - names.index(record.label)]})
        if place in places
        else record
        for place, record in enumerate(data.records)
    ]
    return Dataset(changed, data.origins, data.format), places


def measure(train: Dataset, test: Dataset, vectors: Any, seed: int) -> dict[str, Any]:
    """Flip, look, clean, and learn from each.

    Args:
        vectors: `[train + test, D]`.
    """
    flipped, places = flip(train, seed)
    count = len(train)
    found = wrong_labels(Records({"train": flipped}), vectors[:count])[0]
    sure = [one for one in found if one.score >= SURE]
    given = [record.label for record in flipped.records]
    mended = list(given)
    for one in sure:
        mended[one.place] = str(one.suggestion)
    gone = {one.place for one in sure}
    kept = [place for place in range(count) if place not in gone]
    tested = (vectors[count:], [record.label for record in test.records])

    def accuracy(rows: list[int], labels: list[str]) -> float:
        return _accuracy(vectors[rows], [labels[row] for row in rows], *tested)

    everything = list(range(count))
    right = [record.label for record in train.records]
    return {
        "seed": seed,
        "flipped": len(places),
        "all": _found(found, places),
        "sure": {
            str(level): _found([one for one in found if one.score >= level], places)
            for level in LEVELS
        },
        "accuracy": {
            "original labels": accuracy(everything, right),
            "a tenth flipped": accuracy(everything, given),
            "flipped, then --drop wrong_label": accuracy(kept, given),
            "flipped, then --change wrong_label": accuracy(everything, mended),
        },
    }


def _found(found: list[Any], places: set[int]) -> dict[str, float]:
    hits = len(places & {one.place for one in found})
    return {
        "found": len(found),
        "recall": hits / len(places),
        "precision": hits / len(found) if found else 1.0,
    }


def _accuracy(rows: Any, labels: list[str], test_rows: Any, test_labels: list[str]) -> float:
    names = sorted(set(labels))
    numbers = np.array([names.index(label) for label in labels])
    fitted = fit_logistic(Samples(rows, numbers), classes=len(names))
    guesses = (test_rows @ fitted.weight_CD.T + fitted.bias_C).argmax(1)
    return float(
        np.mean([names[g] == label for g, label in zip(guesses, test_labels, strict=True)])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default=ENCODER)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "wrong-labels.json")
    options = parser.parse_args()
    train, test = records("train"), records("test")
    texts = [record.text for data in (train, test) for record in data.records]
    vectors = vectors_of(texts, options.encoder, Console(quiet=True))
    rounds = [measure(train, test, vectors, seed) for seed in SEEDS]
    report = {
        "benchmark": "wrong_labels",
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python -m benchmarks.wrong_labels",
        "hardware": hardware(),
        "encoder": options.encoder,
        "records": len(train),
        "tested": len(test),
        "share": FLIPPED,
        "sure": SURE,
        "rounds": rounds,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {options.out.name}")


if __name__ == "__main__":
    main()
