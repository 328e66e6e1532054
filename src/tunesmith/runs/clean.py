"""`clean`: records written anew without what was found in them, and a log of what was done and why.

    recipe or file ──looks of deep.py──> findings ──drop, change──> new file, log (JSONL)

The source is only read, nothing is overwritten, and a file that was begun and not finished is not
there. Only what the user names is acted upon. Of a recipe the training records are cleaned: what is
tested stays as it is, and training records that stand in it are leaks.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tunesmith
from tunesmith.console import Console
from tunesmith.data.columns import replaced
from tunesmith.data.dataset import Dataset
from tunesmith.data.rewrite import new_place, refuse_existing, without_questions, write_again
from tunesmith.errors import DataError, InputError, suggest
from tunesmith.quality.findings import KINDS, Finding
from tunesmith.quality.leaks import find_leaks
from tunesmith.quality.personal import redact_all
from tunesmith.runs.clean_sources import (
    Source,
    asked_for,
    check_changes,
    check_target,
    load,
    read,
)
from tunesmith.runs.deep import CHEAP, Records, outliers, wrong_labels
from tunesmith.runs.vectors import ENCODER, vectors_of

EMPTY = "empty"
DROPPABLE = {**KINDS, EMPTY: "a record of which nothing would be learnt"}
"""What can be dropped, and what it is."""
CHANGEABLE = {
    "wrong_label": "gets the label that the encoder gives",
    "personal": "has its kind put in its place, as [EMAIL]",
}
"""What can be changed, and how."""
BY_DEFAULT = ("duplicate", "leak", EMPTY)
"""What is dropped where nothing is named: what is certain."""
SURE = 0.7
_REPEATED = ("duplicate", "near_duplicate")


@dataclass(frozen=True)
class CleanedFile:
    """One file that was written."""

    source: str
    written: str
    records: int
    dropped: int
    changed: int


@dataclass(frozen=True)
class CleanResult:
    """What was written, and how many records were dropped and changed for which finding."""

    files: list[CleanedFile]
    log: str
    format: str
    dropped: dict[str, int]
    changed: dict[str, int]
    remarks: list[str]


def clean(
    source: str | Path,
    out: str | Path,
    *,
    drop: Sequence[str] = (),
    change: Sequence[str] = (),
    against: Sequence[str] = (),
    sure: float = SURE,
    encoder: str = ENCODER,
    log: str | Path | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> CleanResult:
    """Write the records of `source` anew, without what was found in them.

    Args:
        source: a recipe (its training records), or a file or folder of records.
        out: the new file; a new folder where there are several sources, or one that is a folder.
        drop: kinds of finding whose records are left out, of `DROPPABLE`; what is certain where
            neither this nor `change` is given.
        change: kinds of finding that are mended, of `CHANGEABLE`.
        against: files whose records count as leaks, beside a recipe's own test and validation.
        sure: how unlikely a label must be for it to count as wrong: 0.7 where the encoder gives it
            three tenths or less.
        encoder: the text model by whose vectors labels and outliers are judged.
        log: where to write what was done; beside `out` where None.
        overrides: changes to the recipe.

    Raises:
        InputError: a kind is not known, something exists already, a source cannot be read or
            written again.
        RunError: the place cannot be written.
    """
    console = console or Console()
    if not drop and not change:
        drop = BY_DEFAULT
    _check_kinds(drop, DROPPABLE, "drop")
    _check_kinds(change, CHANGEABLE, "change")
    target = Path(out)
    log_place = Path(log) if log is not None else _beside(target)
    for place in (target, log_place):
        refuse_existing(place)
    asked = asked_for(source, overrides, against)
    sources = [read(spec, asked) for spec in asked.specs]
    check_target(sources, target)
    check_changes(sources, change)
    held = load(asked.against, asked) if asked.against else None
    everything = _joined(sources)
    findings, remarks = _find({*drop, *change}, everything, held, sure, encoder, console)
    findings += _repeated(everything, drop, findings)
    if asked.against == [] and "leak" in drop:
        remarks.append("No test records were given: leaks were not looked for.")
    _decide(sources, findings, drop, change)
    if not any(len(one.places) > len(one.dropped) for one in sources):
        raise DataError(
            "Every record would be dropped: nothing was written.",
            where=str(source),
            fix="Drop fewer kinds of finding.",
        )
    return _write(sources, target, log_place, drop, change, remarks)


def _check_kinds(kinds: Sequence[str], known: Mapping[str, str], verb: str) -> None:
    for kind in kinds:
        if kind not in known:
            raise InputError(
                f"There is no {kind!r} to {verb}.", where=verb, fix=suggest(kind, known)
            )


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.stem}.log.jsonl")


def _find(
    kinds: set[str],
    data: Dataset,
    held: Dataset | None,
    sure: float,
    encoder: str,
    console: Console,
) -> tuple[list[Finding], list[str]]:
    """Look for what is to be acted upon, but for what is said again."""
    everything = Records({"train": data})
    found: list[Finding] = []
    remarks: list[str] = []
    for kind in sorted(kinds & set(CHEAP) - {"leak", *_REPEATED}):
        found += CHEAP[kind](everything)[0]
    if "leak" in kinds and held is not None:
        found += _leaks(everything, held)
    if kinds & {"wrong_label", "outlier"}:
        vectors_ND = vectors_of(everything.texts, encoder, console)
        if "wrong_label" in kinds:
            wrong, about = wrong_labels(everything, vectors_ND)
            found += [one for one in wrong if one.score >= sure]
            unsure = sum(one.score < sure for one in wrong)
            remarks += [f"Wrong labels: {about.remark}."] if about.remark else []
            if unsure:
                remarks.append(f"{unsure} labels may be wrong as well, but less surely (--sure).")
        if "outlier" in kinds:
            found += outliers(everything, vectors_ND)[0]
    return found, remarks


def _repeated(data: Dataset, drop: Sequence[str], found: Sequence[Finding]) -> list[Finding]:
    """Find what is said again among the records that stay, so that one that says it is left."""
    going = {one.place for one in found if one.kind in drop}
    staying = [place for place in range(len(data)) if place not in going]
    left = Records({"train": data.take(staying)})
    return [
        replace(one, place=staying[one.place])
        for kind in _REPEATED
        if kind in drop
        for one in CHEAP[kind](left)[0]
    ]


def _joined(sources: Sequence[Source]) -> Dataset:
    return Dataset(
        [record for one in sources for record in one.data.records],
        [origin for one in sources for origin in one.data.origins],
        sources[0].data.format,
    )


def _leaks(everything: Records, held: Dataset) -> list[Finding]:
    """Find training records that stand in what is held out, or ask the same."""
    leaks = find_leaks(held.records, everything.records)
    pairs = [(pair, f"{pair.similarity:.0%} the same as") for pair in (*leaks.exact, *leaks.near)]
    pairs += [(pair, "asks the same as") for pair in leaks.same_prompt]
    return [
        Finding("leak", pair.first, f"{how} {held.origins[pair.second]}") for pair, how in pairs
    ]


def _decide(
    sources: Sequence[Source],
    findings: Sequence[Finding],
    drop: Sequence[str],
    change: Sequence[str],
) -> None:
    """Say of each row whether it goes or is changed; what goes is not changed."""
    owner = [(one, place) for one in sources for place in one.places]
    for found in findings:
        one, place = owner[found.place]
        if found.kind in drop:
            one.dropped.setdefault(place, found)
    if EMPTY in drop:
        for one in sources:
            reason_of = {lost.origin: lost.reason for lost in one.data.dropped}
            for place in sorted(set(range(len(one.rows))) - set(one.places)):
                reason = reason_of.get(one.origins[place], "nothing would be learnt of it")
                one.dropped[place] = Finding(EMPTY, place, reason)
    for found in findings:
        one, place = owner[found.place]
        if found.kind in change and place not in one.dropped:
            row = one.changed[place][1] if place in one.changed else one.rows[place]
            one.changed[place] = (found, _changed(one, row, found))


def _changed(one: Source, row: dict[str, Any], found: Finding) -> dict[str, Any]:
    columns = one.fields
    if found.kind == "wrong_label":
        return replaced(row, columns["label"], lambda old: _like(old, found.suggestion or ""))
    for wanted, name in columns.items():
        if wanted not in ("label", "labels", "id"):
            row = replaced(row, name, lambda old: redact_all(old)[0])
    return row


def _like(old: Any, label: str) -> Any:
    """Write a label as the old one was written: as a number, or as true and false."""
    if isinstance(old, bool):
        return label == "true"
    if isinstance(old, int | float):
        try:
            return type(old)(label)
        except ValueError:  # numbers and words among the labels of one file
            return label
    return label


def _write(
    sources: Sequence[Source],
    target: Path,
    log_place: Path,
    drop: Sequence[str],
    change: Sequence[str],
    remarks: list[str],
) -> CleanResult:
    several = len(sources) > 1
    with new_place(target) as made, new_place(log_place) as log:  # the log is there first
        if several:
            made.mkdir()
        for one in sources:
            _write_one(one, made / one.path.name if several else made)
        log.write_text("".join(_log(sources, drop, change)), encoding="utf-8")
    return CleanResult(
        [
            CleanedFile(
                str(one.path),
                str(target / one.path.name if several else target),
                len(one.rows),
                len(one.dropped),
                len(one.changed),
            )
            for one in sources
        ],
        str(log_place),
        sources[0].data.format,
        dict(Counter(found.kind for one in sources for found in one.dropped.values())),
        dict(Counter(found.kind for one in sources for found, _ in one.changed.values())),
        remarks,
    )


def _write_one(one: Source, place: Path) -> None:
    changed = {number: row for number, (_, row) in one.changed.items()}
    if one.nested is None:
        write_again(one.path, place, set(one.dropped), changed)
    else:
        gone, articles = without_questions(one.nested, set(one.dropped))
        write_again(one.path, place, gone, articles)


def _log(sources: Sequence[Source], drop: Sequence[str], change: Sequence[str]) -> list[str]:
    """Return the lines of the log: what was read and asked for, then every row that did not stay.

    Texts of records are not repeated: what was taken out for good reason must not live on here.
    """
    lines: list[dict[str, Any]] = []
    for one in sources:
        lines.append(
            {
                "action": "read",
                "source": str(one.path),
                "sha256": _digest(one.path),
                "format": one.data.format,
                "records": len(one.rows),
                "drop": list(drop),
                "change": list(change),
                "tunesmith": tunesmith.__version__,
            }
        )
        done = [(place, "dropped", found) for place, found in one.dropped.items()]
        done += [(place, "changed", found) for place, (found, _) in one.changed.items()]
        for place, action, found in sorted(done, key=lambda each: each[0]):
            line = {
                "action": action,
                "origin": one.origins[place],
                "kind": found.kind,
                "reason": found.reason,
            }
            lines.append(line | ({"to": found.suggestion} if found.suggestion else {}))
    return [json.dumps(line, ensure_ascii=False) + "\n" for line in lines]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
