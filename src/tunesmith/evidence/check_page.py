"""Writes what `check` found as one self-contained page.

In: the result of a check, as plain lists and mappings (what `check --json` prints). Out: a page
like the report: no scripts, no requests, light or dark, readable on a phone; all text of records
is escaped. It chooses what to show; what is true is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tunesmith.errors import InputError
from tunesmith.evidence import figures, plots
from tunesmith.evidence.page import render_page, write_page
from tunesmith.evidence.ranges import exists

SHOWN = 50
"""Findings of a kind that the page shows; the rest are counted."""

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of finding, and those that are shown of it."""

    name: str
    title: str
    means: str
    records: int
    found: int
    remark: str
    shown: list[Mapping[str, Any]]


def page_place(path: Path) -> Path:
    """Return where a page will be written, once its folder is there.

    Raises:
        InputError: it is not.
    """
    if not path.parent.is_dir():
        raise InputError(
            "There is no such folder to write a page in.",
            where=str(path.parent),
            fix="Make it, or choose another.",
        )
    return path


def write_check_page(document: Document, path: Path, version: str) -> None:
    """Write the page to `path`, whole or not at all.

    Args:
        version: Tunesmith's own.

    Raises:
        RunError: the place cannot be written.
    """
    page = render_check(document, version)
    fix = "Choose a folder that is there and may be written."
    write_page(page, path, called="page", fix=fix)


def render_check(document: Document, version: str) -> str:
    """Return the page."""
    deep = document["deep"]
    return render_page(
        "check.html.jinja",
        ("report.css", "check.css"),
        figures=figures,
        version=version,
        check=document,
        facts=facts(document),
        parts=_parts(document),
        kinds=_kinds(deep) if deep else [],
        languages=_shares(deep["languages"]) if deep else [],
        lengths=_lengths(deep["lengths"]) if deep else None,
        classes=_classes(deep["classes"]) if deep else [],
    )


def facts(found: Document) -> dict[str, str]:
    """Return in words what is known of a recipe before training; what is not known is empty."""
    learns = found["trainable_parameters"] / found["parameters"]
    seconds = found["seconds"]
    return {
        "model": f"{found['model']} ({found['kind']},"
        f" {figures.count(found['parameters'])} parameters)",
        "task": _task(found),
        "technique": f"{found['technique']}: {figures.count(found['trainable_parameters'])}"
        f" parameters learn ({learns:.2%} of the model's number)",
        "format": found["format"],
        "not read": ", ".join(found["ignored"]),
        "steps": figures.count(found["steps"]),
        "memory": f"about {figures.size(found['memory_bytes'])}",
        "time": "unknown" if seconds is None else f"about {figures.duration(seconds)}",
        "verdict by": _verdict_by(found),
        "could show": "; ".join(
            f"{figures.label(each['metric'])}: {_could_show(each)}"
            for each in found["members"].values()
        )
        or _could_show(found),
    }


def _task(found: Document) -> str:
    own = [f"{name} ({each['task']})" for name, each in found["members"].items()]
    return f"{found['task']}: {', '.join(own)}" if own else str(found["task"])


def _verdict_by(found: Document) -> str:
    """Of several tasks each has a verdict, and the worst stands in front."""
    own = [figures.label(each["metric"]) for each in found["members"].values()]
    return f"the worst of {', '.join(own)}" if own else figures.label(found["metric"])


def _could_show(found: Document) -> str:
    """In words what a test could show: of one task, or of one of several."""
    if found["detectable"] is None:
        return "unknown"
    if not exists(found["metric"], found["detectable"]):
        return "nothing: the test records are too few"
    text = f"a difference of {figures.number(found['detectable'])} or more"
    return f"{text}, if {found['assumption']}" if found["assumption"] else text


def _parts(document: Document) -> list[tuple[str, list[str]]]:
    figured = ("records", "tokens", "trained_tokens", "shortest", "median", "longest")
    return [
        (name, [figures.count(document[name][figure]) for figure in figured])
        for name in ("train", "validation", "test")
        if document[name] is not None
    ]


def _kinds(deep: Document) -> list[Kind]:
    of_kind: dict[str, list[Mapping[str, Any]]] = {}
    for finding in deep["findings"]:
        of_kind.setdefault(finding["kind"], []).append(finding)
    return [
        Kind(
            look["kind"],
            figures.label(look["kind"]),
            look["means"],
            look["records"],
            look["found"],
            look["remark"],
            of_kind.get(look["kind"], [])[:SHOWN],
        )
        for look in deep["looks"]
    ]


def _shares(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    total = sum(counts.values())
    return [(name, count, count / total) for name, count in counts.items()]


def _classes(classes: Mapping[str, Mapping[str, int]]) -> list[tuple[str, list[str]]]:
    """Return a row for each class: how many records of it each part has."""
    names = list(dict.fromkeys(name for counts in classes.values() for name in counts))
    return [
        (name, [figures.count(counts.get(name, 0)) for counts in classes.values()])
        for name in names
    ]


def _lengths(histogram: Mapping[str, Sequence[float]]) -> Markup | None:
    if sum(histogram["counts"]) < 2:
        return None
    title = "Words of the training records"
    counts = [int(count) for count in histogram["counts"]]
    return Markup(plots.bars("lengths", title, histogram["edges"], counts, "words"))
