"""Writes the parts of the documents that the code knows better: the tables of the README.

In: the registries of tasks, techniques and objectives. Out: the text between the markers
`<!-- generated: … -->` and `<!-- end -->`, written anew. Run it as `make docs`; a test fails where
a document is not up to date. It imports option models only, so it needs no torch.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from tunesmith.data.records import (
    Conversation,
    Document,
    LabelledText,
    MultiLabelledText,
    QuestionedText,
    RankedTexts,
    RelatedTexts,
    ScoredText,
    TaggedText,
    TextPair,
)
from tunesmith.registry import TASKS, TECHNIQUES
from tunesmith.tasks.multitask import MemberRecord

README = Path(__file__).parents[1] / "README.md"

RECORDS = {
    MemberRecord: "those of each of its tasks",
    Conversation: "Alpaca, chat messages, ShareGPT, prompt/completion",
    Document: "plain text, a folder of texts",
    LabelledText: "text with a label, or two texts",
    MultiLabelledText: "text with a list of labels, or two texts",
    QuestionedText: "SQuAD 1.1 and 2.0",
    RankedTexts: "a query with documents and their relevance",
    RelatedTexts: "pairs, triplets, scored pairs",
    ScoredText: "text with a number, or two texts",
    TaggedText: "CoNLL files, words with tags, text with spans",
    TextPair: "source and target, translations, summaries",
}


def main() -> None:
    """Write every generated part anew."""
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")


def renewed(text: str) -> str:
    """Return a document with its generated parts as the code has them now."""
    for name, table in (("tasks", tasks()), ("techniques", techniques())):
        pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
        text, found = re.subn(
            pattern, lambda match, table=table: match[1] + table + match[2], text, flags=re.DOTALL
        )
        if found != 1:
            raise SystemExit(f"There are {found} places for {name!r}; there must be one.")
    return text


def tasks() -> str:
    """Return the table of tasks."""
    return _table(
        ("task", "what is learnt", "records", "models", "decided by"),
        [
            (
                f"`{task.name}`",
                _sentence(task),
                RECORDS[task.Record],
                ", ".join(sorted(task.kinds)),
                task.primary.replace("_", " ") or "the worst of its tasks",
            )
            for task in TASKS
        ],
    )


def techniques() -> str:
    """Return the table of techniques, and which tasks each can serve."""
    return _table(
        ("technique", "who learns", *(f"`{task.name}`" for task in TASKS)),
        [
            (
                f"`{technique.name}`",
                _sentence(technique),
                *("yes" if _serves(technique, task) else "" for task in TASKS),
            )
            for technique in TECHNIQUES
        ],
    )


def _serves(technique: Any, task: Any) -> bool:
    if technique.alone and task.name == "multitask":
        return False
    return any(technique.refuses(task.head, kind) is None for kind in task.kinds)


def _sentence(member: Any) -> str:
    """Return the first line of a member's description, without its full stop."""
    return (inspect.getdoc(member) or "").splitlines()[0].rstrip(".")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
