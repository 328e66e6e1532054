"""Builds `train.csv` and `test.csv`: sentences of product reviews, positive or negative.

In: the rated review sentences inside one pinned vaderSentiment package. Out: CSV files with the
columns `text` and `label`, the same ones every time. Run it from the top of the repository:

    python -m examples.sentiment.build

At least twenty people rated each sentence from -4 to 4. Sentences near zero are dropped: they are
neither. All sentences of one review stay on one side of the split, so that the test cannot be
passed by remembering a reviewer or a product; both classes are equally frequent on both sides.
"""

from __future__ import annotations

import csv
import io
import random
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from examples.packaged_file import fetch

REQUIREMENT = "vaderSentiment==3.3.2"
FILE_NAME = "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SENTENCES = "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"

NEGATIVE_BELOW = -0.8
POSITIVE_ABOVE = 1.2
WORDS = range(4, 41)
RECORDS = {"test": 400, "train": 1200}
SEED = 0


def main() -> None:
    """Fetch the package and write both files beside this one."""
    reviews = labelled(sentences(fetch(REQUIREMENT, FILE_NAME, SHA256, source=True)))
    order = sorted(reviews)
    random.Random(SEED).shuffle(order)
    remaining = iter(order)
    for name, wanted in RECORDS.items():
        records = take(remaining, reviews, wanted)
        write(Path(__file__).parent / f"{name}.csv", records)
        print(f"{name}: {len(records)} records")


def sentences(package: Path, name: str = SENTENCES) -> list[tuple[str, float, str]]:
    """Return (review, mean rating, sentence) of every rated sentence of one of its files."""
    with tarfile.open(package) as outer:
        inner = io.BytesIO(member(outer, INNER_ARCHIVE))
    with tarfile.open(fileobj=inner) as archive:
        lines = member(archive, name).decode("utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    return [(place.split("_")[0], float(rating), text) for place, rating, text in rows]


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the content of one file of an archive."""
    file = archive.extractfile(name)
    if file is None:
        raise SystemExit(f"There is no file {name} in the package.")
    return file.read()


def labelled(rows: list[tuple[str, float, str]]) -> dict[str, list[tuple[str, str]]]:
    """Return the clear and distinct sentences of each review, with their label."""
    reviews: dict[str, list[tuple[str, str]]] = defaultdict(list)
    seen: set[str] = set()
    for review, rating, text in rows:
        key = " ".join(re.findall(r"\w+", text.casefold()))
        clear = rating < NEGATIVE_BELOW or rating > POSITIVE_ABOVE
        if clear and key not in seen and len(text.split()) in WORDS:
            seen.add(key)
            reviews[review].append((text.strip(), "positive" if rating > 0 else "negative"))
    return reviews


def take(
    remaining: Iterator[str], reviews: dict[str, list[tuple[str, str]]], wanted: int
) -> list[tuple[str, str]]:
    """Take whole reviews until each class has its half of the wanted records."""
    found: dict[str, list[tuple[str, str]]] = {"negative": [], "positive": []}
    for review in remaining:
        for record in reviews[review]:
            found[record[1]].append(record)
        if all(len(records) >= wanted // 2 for records in found.values()):
            break
    else:
        raise SystemExit(f"There are not enough clear sentences for {wanted} records.")
    records = [record for half in found.values() for record in half[: wanted // 2]]
    random.Random(SEED).shuffle(records)
    return records


def write(path: Path, records: list[tuple[str, str]]) -> None:
    """Write the records as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("text", "label"))
        writer.writerows(records)


if __name__ == "__main__":
    main()
