"""Builds `train/` and `test/`: the opening prose of recent Python Enhancement Proposals.

In: a clone of github.com/python/peps, which the reader makes. Out: one text file a proposal, the
same ones every time, because the commit is pinned. Run it from the top of the repository:

    git clone https://github.com/python/peps /tmp/peps
    python -m examples.proposals.build /tmp/peps

Only proposals that place themselves in the public domain are used, and of these only paragraphs of
prose, without code, lists, headings and markup.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

COMMIT = "ba4deeb7969588d937da609008d05bb83a47b1ab"
TRAIN, TEST = 32, 16
CHARACTERS = range(1400, 2001)
FIRST_NUMBER = 740
SEED = 0


def main(clone: Path) -> None:
    """Write both folders beside this file."""
    texts = {}
    for name in git(clone, "ls-tree", "-r", "--name-only", COMMIT, "peps/").splitlines():
        number = re.fullmatch(r"peps/(pep-(\d{4}))\.rst", name)
        if number and int(number[2]) >= FIRST_NUMBER:
            text = opening(git(clone, "show", f"{COMMIT}:{name}"))
            if len(text) in CHARACTERS:
                texts[number[1]] = text
    names = sorted(texts)
    random.Random(SEED).shuffle(names)
    for folder, chosen in (("train", names[:TRAIN]), ("test", names[TRAIN : TRAIN + TEST])):
        for name in chosen:
            path = Path(__file__).parent / folder / f"{name}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(texts[name], encoding="utf-8")
        print(f"{folder}: {len(chosen)} texts")


def git(clone: Path, *arguments: str) -> str:
    """Return what git prints."""
    command = ["git", "-C", str(clone), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def opening(proposal: str) -> str:
    """Return the first paragraphs of prose of a proposal in the public domain, else nothing."""
    if "public domain" not in " ".join(proposal.split())[-400:].lower():
        return ""
    body = proposal.partition("\nAbstract\n")[2]
    found = ""
    for block in re.split(r"\n\s*\n", body):
        paragraph = prose(block)
        if paragraph and len(found) + len(paragraph) + 2 in range(CHARACTERS.stop):
            found += paragraph + "\n\n"
        elif len(found) >= CHARACTERS.start:
            break
    return found.strip() + "\n" if found else ""


def prose(block: str) -> str:
    """Return a block as one plain paragraph, or nothing where it is not prose."""
    lines = block.strip("\n").splitlines()
    if any(re.match(r"\s|\.\.|[-*+#|] |\d+\.|[=~^\-'\"]{3,}|:\w+:", line) for line in lines):
        return ""
    text = " ".join(" ".join(lines).split())
    text = re.sub(r":pep:`(\d+)`", r"PEP \1", text)
    text = re.sub(r":[\w:.-]+:`!?~?([^`<]+?)(?: *<[^`]*>)?`", r"\1", text)
    text = re.sub(r"`([^`<]+?) *<[^`]*>`_+", r"\1", text)
    text = re.sub(r"(``?)(.+?)\1_*", r"\2", text)
    text = re.sub(r"(?<!\w)(\*\*?)(\w[^*]*[^*\s])\1(?!\w)", r"\2", text)
    text = re.sub(r" ?\[#?\w+\]_", "", text)
    return text if text.endswith((".", "?", "!", ")")) and len(text) > 80 else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
