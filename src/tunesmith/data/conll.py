"""Reads CoNLL text: one word a line, its tag in the last column, an empty line between sentences.

    Ada    NNP  B-PER
    wrote  VBD  O           ──sentences──>  {"tokens": ["Ada", "wrote"], "tags": ["B-PER", "O"]}

Columns are separated by tabs or, where a file has none, by spaces; all lines have as many as the
first. Lines that begin a document (`-DOCSTART-`) and comments (`# id = 7`) before a sentence are
passed over. Whether the tags make sense is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tunesmith.data.tagging import is_tag

_COMMENT = re.compile(r"#\s*[\w.-]+(\s|=|$)")
_DOCUMENT = "-DOCSTART-"


@dataclass
class Sentences:
    """What a CoNLL file holds.

    Attributes:
        rows: tokens and tags of each sentence.
        lines: the line on which each begins.
        broken: lines that are not as they should be, and what is wrong.
    """

    rows: list[dict[str, list[str]]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)


def sentences(text: str) -> Sentences:
    """Read every sentence, and every broken line."""
    found = Sentences()
    separator = "\t" if "\t" in text else None
    width = 0
    within = False  # a sentence
    for number, line in enumerate(text.split("\n"), start=1):
        columns = line.rstrip("\r").split(separator)
        if not line.strip() or columns[0] == _DOCUMENT:
            within = False
            continue
        tag = columns[-1].strip()
        if not within and _COMMENT.match(line) and not is_tag(tag):
            continue
        problem = _problem(columns, tag, width)
        if problem:
            found.broken.append((number, problem))
            continue
        width = len(columns)
        if not within:
            found.rows.append({"tokens": [], "tags": []})
            found.lines.append(number)
            within = True
        found.rows[-1]["tokens"].append(columns[0].strip())
        found.rows[-1]["tags"].append(tag)
    return found


def _problem(columns: list[str], tag: str, width: int) -> str | None:
    """Return what is wrong with a line; `width` is how many columns the lines before it have."""
    if len(columns) < 2:
        return f"holds {columns[0]!r} alone, expected a word and its tag"
    if width and len(columns) != width:
        return f"has {len(columns)} columns, the lines before it have {width}"
    if not columns[0].strip():
        return "has no word in its first column"
    if not is_tag(tag):
        return f"ends with {tag!r}, expected a tag: O, or a letter and a label such as B-PER"
    return None
