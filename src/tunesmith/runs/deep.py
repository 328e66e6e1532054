"""`check --deep`: what in the records themselves should be looked at.

    parts (train, validation, test) ──look──> DeepCheck(looks, findings, languages, classes, …)

Every look is one module of `quality`; here they are given what they need, and their findings are
put to the files and lines that they stand in. Nothing is changed: that is what `clean` is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tunesmith.console import Console
from tunesmith.data.dataset import Dataset
from tunesmith.data.records import (
    Conversation,
    LabelledText,
    TextPair,
    content_key,
    labels_of,
    text_of,
)
from tunesmith.quality.answers import find_boilerplate, find_refusals
from tunesmith.quality.conflicts import answer_of, find_conflicts
from tunesmith.quality.duplicates import Duplicates, find_duplicates
from tunesmith.quality.findings import KINDS, Finding, Looked, in_order, shortened
from tunesmith.quality.labels import find_wrong_labels
from tunesmith.quality.languages import Mixture, languages_of
from tunesmith.quality.leaks import find_leaks
from tunesmith.quality.lengths import Histogram, histogram
from tunesmith.quality.outliers import ENOUGH, beyond, neighbour_distances, odd_lengths
from tunesmith.quality.personal import find_personal, redact
from tunesmith.runs.vectors import vectors_of

_EXCERPT = 300


@dataclass(frozen=True)
class DeepFinding:
    """Something to look at, where it stands, and how its text begins."""

    kind: str
    part: str
    origin: str
    reason: str
    suggestion: str | None
    text: str


@dataclass(frozen=True)
class Look:
    """One kind of finding: what it is, how many records were looked at, how many were found."""

    kind: str
    means: str
    records: int
    found: int
    remark: str


@dataclass(frozen=True)
class DeepCheck:
    """What a close look at the records found.

    Attributes:
        languages: of what is learnt or read, by language (ISO 639), the commonest first; of texts
            too short to say: `unsure`.
        classes: records of each class, of each part.
        lengths: words of the training records.
        encoder: what made the vectors by which labels and outliers were judged.
    """

    looks: list[Look]
    findings: list[DeepFinding]
    languages: dict[str, int]
    classes: dict[str, dict[str, int]]
    lengths: Histogram
    encoder: str


class Records:
    """All records of a check, one after the other, and which part and line each is from."""

    def __init__(self, parts: Mapping[str, Dataset]) -> None:
        self.records: list[Any] = [r for data in parts.values() for r in data.records]
        self.origins = [origin for data in parts.values() for origin in data.origins]
        self.parts = [name for name, data in parts.items() for _ in data.records]
        self.texts = [text_of(record) for record in self.records]

    @cached_property
    def repeated(self) -> Duplicates:
        """What stands in train twice, by places in train."""
        return find_duplicates([self.records[place] for place in self.of("train")])

    def __len__(self) -> int:
        return len(self.records)

    def of(self, part: str) -> list[int]:
        """Return the places of a part's records."""
        return [place for place, name in enumerate(self.parts) if name == part]

    @cached_property
    def learnt_texts(self) -> list[str]:
        """Of a conversation all that the assistant says, of a pair the target; else the text."""
        return [_learnt(*each) for each in zip(self.records, self.texts, strict=True)]


def _learnt(record: Any, text: str) -> str:
    if isinstance(record, TextPair):
        return record.target
    if not isinstance(record, Conversation):
        return text
    return "\n\n".join(turn.content for turn in record.messages if turn.role == "assistant")


Findings = list[Finding]


def look(parts: Mapping[str, Dataset], encoder: str, console: Console) -> DeepCheck:
    """Look closely at all records.

    Args:
        parts: `train`, and `validation` and `test` where they are.
        encoder: the text model by whose vectors labels and outliers are judged.

    Raises:
        ModelError: there is no such encoder.
    """
    everything = Records(parts)
    vectors_ND = vectors_of(everything.texts, encoder, console)
    found: Findings = []
    looked: list[Looked] = []
    for one in (*cheap_looks(everything), *vector_looks(everything, vectors_ND)):
        findings, about = one
        found += findings
        looked.append(about)
    counts = {kind: sum(1 for one in found if one.kind == kind) for kind in KINDS}
    order = list(KINDS)
    looked.sort(key=lambda about: order.index(about.kind))
    train = [everything.texts[place] for place in everything.of("train")]
    mixture = Mixture.of(languages_of(everything.learnt_texts))
    return DeepCheck(
        [Look(x.kind, KINDS[x.kind], x.records, counts[x.kind], x.remark) for x in looked],
        [_located(one, everything) for one in in_order(found)],
        mixture.counts | ({"unsure": mixture.unsure} if mixture.unsure else {}),
        _classes(everything),
        histogram([len(text.split()) for text in train]),
        encoder,
    )


def cheap_looks(everything: Records) -> list[tuple[Findings, Looked]]:
    """Look at all that needs no model."""
    return [find(everything) for find in CHEAP.values()]


def vector_looks(everything: Records, vectors_ND: Any) -> list[tuple[Findings, Looked]]:
    """Look at all that needs a vector of each record, `[N, D]`."""
    return [wrong_labels(everything, vectors_ND), outliers(everything, vectors_ND)]


def wrong_labels(everything: Records, vectors_ND: Any) -> tuple[Findings, Looked]:
    """Judge the labels of all parts together: a wrong one in test spoils the verdict."""
    labelled = [p for p, r in enumerate(everything.records) if isinstance(r, LabelledText)]
    if not labelled:
        return [], Looked("wrong_label", 0, "records have no single class")
    wrong, remark = find_wrong_labels(
        vectors_ND[labelled],
        [everything.records[place].label for place in labelled],
        [content_key(everything.records[place]) for place in labelled],
    )
    findings = [
        Finding(
            "wrong_label",
            labelled[one.place],
            f"labelled “{one.given}” ({one.given_probability:.0%} likely),"
            f" rather “{one.better}” ({one.better_probability:.0%})",
            1 - one.given_probability,
            one.better,
        )
        for one in wrong
        if one.better != one.given
    ]
    return findings, Looked("wrong_label", len(labelled), remark)


def outliers(everything: Records, vectors_ND: Any) -> tuple[Findings, Looked]:
    """Judge how near each record is to its nearest neighbours."""
    if len(everything) < ENOUGH:
        return [], Looked("outlier", 0, f"needs {ENOUGH} records")
    far = beyond(neighbour_distances(vectors_ND))
    return [
        Finding(
            "outlier", place, f"far from its nearest neighbours ({times:.1f} deviations)", times
        )
        for place, times in far
    ], Looked("outlier", len(everything))


def _duplicates(everything: Records) -> tuple[Findings, Looked]:
    places, origin = everything.of("train"), everything.origins
    findings = [
        Finding("duplicate", places[other], f"the same as {origin[places[group[0]]]}")
        for group in everything.repeated.exact
        for other in group[1:]
    ]
    return findings, Looked("duplicate", len(places))


def _near_duplicates(everything: Records) -> tuple[Findings, Looked]:
    places = everything.of("train")
    copies = {group[0]: group for group in everything.repeated.exact}
    findings = [
        Finding(
            "near_duplicate",
            places[place],
            f"{pair.similarity:.0%} the same as {everything.origins[places[pair.first]]}",
            pair.similarity,
        )
        for pair in everything.repeated.near
        for place in copies.get(pair.second, [pair.second])
    ]
    return findings, Looked("near_duplicate", len(places))


def _leaks(everything: Records) -> tuple[Findings, Looked]:
    train = everything.of("train")
    held = [place for place in range(len(everything)) if everything.parts[place] != "train"]
    found = find_leaks(
        [everything.records[place] for place in train],
        [everything.records[place] for place in held],
    )
    pairs = [(pair, f"{pair.similarity:.0%} the same as") for pair in (*found.exact, *found.near)]
    pairs += [(pair, "asks the same as") for pair in found.same_prompt]
    findings = {
        pair.first: Finding(
            "leak",
            held[pair.first],
            f"{how} {everything.origins[train[pair.second]]} in train",
            pair.similarity,
        )
        for pair, how in reversed(pairs)
    }
    return list(findings.values()), Looked("leak", len(held))


def _conflicts(everything: Records) -> tuple[Findings, Looked]:
    findings = [
        Finding(
            "conflict",
            place,
            f"“{shortened(answer_of(everything.records[place]))}”; in {_listed(others)}"
            f" “{shortened(answer_of(everything.records[others_places[0]]))}”",
        )
        for group in find_conflicts(everything.records)
        for place in group
        if (others_places := _otherwise(everything, group, place))
        for others in [[everything.origins[other] for other in others_places]]
    ]
    return findings, Looked("conflict", len(everything))


def _otherwise(everything: Records, group: Sequence[int], place: int) -> list[int]:
    """Return the places in a group whose answer is another than that of `place`."""
    own = answer_of(everything.records[place])
    return [other for other in group if answer_of(everything.records[other]) != own]


def _lengths(everything: Records) -> tuple[Findings, Looked]:
    if len(everything) < ENOUGH:
        return [], Looked("length", 0, f"needs {ENOUGH} records")
    odd = odd_lengths([len(text) for text in everything.texts])
    findings = [
        Finding(
            "length",
            place,
            f"{len(everything.texts[place]):,} characters, {times:.2g} times the median",
            max(times, 1 / times),
        )
        for place, times in odd
    ]
    return findings, Looked("length", len(everything))


def _refusals(everything: Records) -> tuple[Findings, Looked]:
    records, texts = everything.records, everything.learnt_texts
    answered = [p for p, r in enumerate(records) if isinstance(r, Conversation | TextPair)]
    found = find_refusals([texts[place] for place in answered])
    findings = [
        Finding("refusal", answered[place], reason)
        for place, reason in found
        if not _passes_on(records[answered[place]])
    ]
    remark = "" if answered else "records have no written answers"
    return findings, Looked("refusal", len(answered), remark)


def _passes_on(record: Any) -> bool:
    """Whether a target may refuse because its source does: it is translated, or summed up."""
    return isinstance(record, TextPair) and bool(find_refusals([record.source]))


def _boilerplate(everything: Records) -> tuple[Findings, Looked]:
    found = find_boilerplate(everything.learnt_texts)
    return [Finding("boilerplate", place, reason) for place, reason in found], Looked(
        "boilerplate", len(everything)
    )


def _personal(everything: Records) -> tuple[Findings, Looked]:
    findings = []
    for place, text in enumerate(everything.texts):
        kinds = [match.kind for match in find_personal(text)]
        if kinds:
            said = (f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds))
            findings.append(Finding("personal", place, ", ".join(said), len(kinds)))
    return findings, Looked("personal", len(everything), "names and places have no form")


def _languages(everything: Records) -> tuple[Findings, Looked]:
    codes = languages_of(everything.learnt_texts)
    mixture = Mixture.of(codes)
    main = mixture.main
    findings = [
        Finding("language", place, f"in “{code}”; most are in {_listed(main)}")
        for place, code in enumerate(codes)
        if code is not None and code not in main
    ]
    known = len(codes) - mixture.unsure
    remark = f"{mixture.unsure} too short to be sure" if mixture.unsure else ""
    return findings, Looked("language", known, remark)


CHEAP: dict[str, Callable[[Records], tuple[Findings, Looked]]] = {
    "duplicate": _duplicates,
    "near_duplicate": _near_duplicates,
    "leak": _leaks,
    "conflict": _conflicts,
    "length": _lengths,
    "refusal": _refusals,
    "boilerplate": _boilerplate,
    "personal": _personal,
    "language": _languages,
}
"""The looks that need no model, by the kind of what they find."""


def _located(one: Finding, everything: Records) -> DeepFinding:
    text = everything.texts[one.place]
    if one.kind == "personal":  # a list of findings must not spread what it warns of
        text = redact(text)[0]
    return DeepFinding(
        one.kind,
        everything.parts[one.place],
        everything.origins[one.place],
        one.reason,
        one.suggestion,
        text[:_EXCERPT] + ("…" if len(text) > _EXCERPT else ""),
    )


def _classes(everything: Records) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for part, record in zip(everything.parts, everything.records, strict=True):
        for label in labels_of(record):
            of_part = counts.setdefault(part, {})
            of_part[label] = of_part.get(label, 0) + 1
    return {
        part: dict(sorted(of_part.items(), key=lambda item: (-item[1], item[0])))
        for part, of_part in counts.items()
    }


def _listed(names: Sequence[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")
