"""Is this model right for this task, and for these data? Answered before anything is trained.

    model (its configuration), task, records ──judge──> Fit(verdict, reasons, better)

It asks what training itself would ask: the table of kinds, the task's own encoding, the class
counts. Nothing is loaded but the tokenizer; the weights may be absent. It does not say how good the
result will be: only a run does.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from tunesmith.data.dataset import load_dataset
from tunesmith.errors import DataError, InputError, ModelError, RecipeError
from tunesmith.evaluation.probe import general_probe
from tunesmith.models.anatomy import study
from tunesmith.models.anatomy.study import UNLIMITED
from tunesmith.models.catalogue import catalogue
from tunesmith.models.kinds import check_fit, kind_of
from tunesmith.models.model import Model
from tunesmith.models.resolve import Resolved
from tunesmith.models.soundness import check_readable
from tunesmith.models.tokens import Hazard
from tunesmith.quality.balance import class_balance
from tunesmith.registry import TASKS

Verdict = Literal["fit", "fit with changes", "unfit"]
_ORDER: tuple[Verdict, ...] = ("fit", "fit with changes", "unfit")

_SAMPLE = 500
_COSTLY = 2.0
"""Tokens a byte, over those of English: from here on the tokenizer does not know the language."""
_UNKNOWN_SOME, _UNKNOWN_MANY = 0.005, 0.10
_SENSES = {
    "pictures": (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
    "sound": (".wav", ".mp3", ".flac", ".ogg", ".m4a"),
    "films": (".mp4", ".mov", ".avi", ".mkv"),
}


@dataclass(frozen=True)
class Reason:
    """One thing that was looked at.

    Attributes:
        aspect: architecture, weights, tokenizer, modality, records, language, length or labels.
        change: what would make it fit; None where it fits, or where nothing would.
    """

    aspect: str
    verdict: Verdict
    what: str
    change: str | None = None


@dataclass(frozen=True)
class Fit:
    """Whether a model is right for a task.

    Attributes:
        better: a better choice, where the model is unfit.
    """

    task: str
    verdict: Verdict
    reasons: tuple[Reason, ...]
    better: str | None


@dataclass(frozen=True)
class Candidate:
    """What is known of the model that is judged.

    Attributes:
        module: the modules that its configuration describes; None where transformers has none.
        tokenizer: None where it has none.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    module: nn.Module | None
    tokenizer: Any
    hazards: Sequence[Hazard]


def judge(
    model: Candidate,
    task: str,
    options: Any = None,
    data: Sequence[str] = (),
    reading: Mapping[str, Any] | None = None,
) -> Fit:
    """Judge a model for a task, and for records where some are given.

    Args:
        task: its name.
        options: of the task, where a recipe gives some.
        data: where the records are: files, folders, data sets of the hub.
        reading: how they are to be read (`format`, `columns`, `group`).

    Raises:
        RecipeError: there is no such task.
        DataError: a file is missing.
    """
    member: Any = TASKS.get(task)
    needed = [name for name, field in member.Options.model_fields.items() if field.is_required()]
    if options is None and needed:
        raise RecipeError(
            f"A model cannot be judged for the task {task!r} by itself: it is made of"
            f" {needed[0]} that a recipe names.",
            where="--task",
            fix="Judge it for each of them.",
        )
    bound = member(options)
    reasons = [*_of_model(model, bound)]
    if data and reasons[0].verdict != "unfit":
        reasons += _of_data(model, bound, data, dict(reading or {}))
    verdict = max((reason.verdict for reason in reasons), key=_ORDER.index)
    worst = next((r for r in reasons if r.verdict == "unfit"), None)
    return Fit(task, verdict, tuple(reasons), worst.change if worst else None)


def _of_model(model: Candidate, task: Any) -> Iterator[Reason]:
    try:
        kind = check_fit(model.name, model.config, task.head_for(kind_of(model.config)))
    except ModelError as error:
        yield Reason("architecture", "unfit", error.what, error.fix)
        return
    if kind not in task.kinds:
        needed = " or ".join(sorted(task.kinds))
        yield Reason(
            "architecture",
            "unfit",
            f"The task {task.name} needs a model of kind {needed}; {model.name} is {_a(kind)}.",
            f"Choose {_of_kind(task.kinds)}.",
        )
        return
    if model.module is None:
        family = model.config.get("model_type")
        yield Reason(
            "architecture", "unfit", f"transformers has no model of the family {family}.",
            f"Choose {_of_kind(task.kinds)}.",
        )  # fmt: skip
        return
    yield Reason("architecture", "fit", _suits(model.name, kind, task))
    nowhere = Resolved(model.name, model.path, "folder", "")
    try:
        check_readable(nowhere, dict(model.config), again=False)
    except ModelError as error:
        yield Reason("weights", "fit with changes", error.what, error.fix)
    yield from _of_tokenizer(model, task)


def _of_tokenizer(model: Candidate, task: Any) -> Iterator[Reason]:
    if model.tokenizer is None:
        yield Reason(
            "tokenizer",
            "fit with changes",
            f"{model.name} comes without a tokenizer, so no text can be turned into its tokens.",
            "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) beside config.json.",
        )
    for hazard in model.hazards:
        if hazard.level == "broken":
            yield Reason("tokenizer", "unfit", hazard.what, hazard.fix)
        elif hazard.code == "no_chat_template" and task.name == "instruct":
            yield Reason("tokenizer", "fit with changes", hazard.what, hazard.fix)


def _of_data(
    model: Candidate, task: Any, data: Sequence[str], reading: dict[str, Any]
) -> Iterator[Reason]:
    for spec in data:
        sense = _sense(Path(spec))
        if sense:
            yield Reason(
                "modality",
                "unfit",
                f"{spec} holds {sense}; the task {task.name} learns from text.",
                "Give records of text: " + ", ".join(type(task).Record.model_fields) + ".",
            )
            return
    try:
        records = load_dataset(list(data), type(task).Record, **reading).records
    except DataError as error:
        yield Reason("records", "fit with changes", str(error), error.fix)
        return
    yield Reason("modality", "fit", f"{len(records):,} records of text, as {task.name} reads them.")
    studied = yield from _of_labels(task, records)
    if model.tokenizer is None or model.module is None:
        return
    # The name of a class is no text that the model reads.
    shown = [task.present(record) for record in records[:_SAMPLE]]
    texts = [given if task.labels else f"{given}\n{answer}" for given, answer in shown]
    yield from _of_language(model.tokenizer, texts)
    if not studied:  # without its classes a task can encode no record
        return
    try:
        yield from _of_length(model, task, records)
    except InputError as error:
        yield Reason("length", "fit with changes", str(error), error.fix)


def _of_labels(task: Any, records: Sequence[Any]) -> Generator[Reason, None, bool]:
    """Return whether the task could be studied."""
    try:
        task.study(records)
    except DataError as error:
        yield Reason("labels", "fit with changes", error.what, error.fix)
        return False
    if not task.labels:
        return True
    balance = class_balance(records)
    said = balance.warnings()
    for sentence in said:
        yield Reason(
            "labels", "fit with changes", sentence, "Gather more records of the rare classes."
        )
    if not said:
        yield Reason("labels", "fit", f"{len(balance.train)} classes, none of them rare.")
    return True


def _of_language(tokenizer: Any, texts: Sequence[str]) -> Iterator[Reason]:
    """Fertility: tokens that a text costs, beside those of English in the same tokenizer."""
    ids = [_tokens(tokenizer, text) for text in texts]
    count = sum(map(len, ids))
    words = sum(len(text.split()) for text in texts)
    length = sum(len(text.encode()) for text in texts)
    if not count or not length or not words:
        return
    unknown = tokenizer.unk_token_id
    lost = 0.0 if unknown is None else sum(row.count(unknown) for row in ids) / count
    english = [document.text for document in general_probe()]
    usual = sum(len(_tokens(tokenizer, text)) for text in english) / sum(
        len(text.encode()) for text in english
    )
    costs = count / length / usual
    fertility = f"{count / words:.2f} tokens a word, {costs:.1f} times the tokens of English text"
    if lost >= _UNKNOWN_SOME:
        yield Reason(
            "language",
            "unfit" if lost >= _UNKNOWN_MANY else "fit with changes",
            f"{lost:.1%} of the tokens are unknown to the tokenizer: the model cannot see them.",
            "Choose a model whose tokenizer knows this language and its signs, or add the missing "
            "tokens.",
        )
    elif costs >= _COSTLY:
        yield Reason(
            "language",
            "fit with changes",
            f"The tokenizer cuts this language small: {fertility}. The model saw little of it.",
            "Choose a model that was pre-trained on this language: compare the figure between "
            "models. Else give it much text (language_modeling) before the task.",
        )
    else:
        yield Reason("language", "fit", f"The tokenizer knows this language: {fertility}.")


def _of_length(model: Candidate, task: Any, records: Sequence[Any]) -> Iterator[Reason]:
    assert model.module is not None
    anatomy = study(model.module)
    source = Resolved(model.name, model.path, "folder", "")
    task.bind(Model(model.module, model.tokenizer, anatomy, source))
    longest = cut = spoilt = 0
    first = ""
    for record in records:
        try:
            pieces = task.pieces(record)
        except DataError as error:
            spoilt += 1
            first = first or error.what
            continue
        lost = sum(piece.cut.tokens for piece in pieces if piece.cut is not None)
        longest = max(longest, lost + sum(piece.length for piece in pieces))
        cut += bool(lost)
    context = f"the model's context is {anatomy.context_length:,}"
    if anatomy.context_length >= UNLIMITED:
        context = "the model's context has no limit"
    if spoilt:
        yield Reason(
            "length" if "tokens" in first else "records",
            "unfit" if spoilt == len(records) else "fit with changes",
            f"{spoilt:,} of {len(records):,} records cannot be learnt from: {first}",
            "Mend or remove them: `tunesmith check` names each.",
        )
    if cut:
        yield Reason(
            "length",
            "fit with changes",
            f"{cut:,} of {len(records):,} records are longer than what is read of them; the "
            f"longest has {longest:,} tokens, {context}.",
            f"Split or shorten them, or choose a model with a longer context{_longer(longest)}.",
        )
    elif longest:
        yield Reason("length", "fit", f"The longest record has {longest:,} tokens; {context}.")


def _tokens(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)[
        "input_ids"
    ]
    return ids


def _suits(name: str, kind: str, task: Any) -> str:
    said = f"{name} is {_a(kind)}, which the task {task.name} can use."
    outwards = ("classification", "multi_label", "regression", "tagging")
    if task.head in outwards and kind == "decoder":
        return f"{said} An encoder reads in both directions and usually costs less for this."
    return said


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _of_kind(kinds: frozenset[str]) -> str:
    names = [entry.name for entry in catalogue().values() if entry.kind in kinds]
    return f"one of kind {' or '.join(sorted(kinds))}" + (f", such as {names[0]}" if names else "")


def _longer(tokens: int) -> str:
    names = [
        entry.name
        for entry in catalogue().values()
        if isinstance(entry.context, int) and entry.context >= tokens
    ]
    return f", such as {names[0]}" if names else ""


def _sense(path: Path) -> str | None:
    """What a file or a folder holds that is no text, by the endings of its files."""
    files = [file for file in path.rglob("*") if file.is_file()][:1000] if path.is_dir() else [path]
    for sense, endings in _SENSES.items():
        if files and all(file.suffix.lower() in endings for file in files):
            return sense
    return None
