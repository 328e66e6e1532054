"""`tunesmith check`: everything that can be known before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tunesmith.cli.deep import describe_deep
from tunesmith.cli.output import Json, Output, Overrides, output

if TYPE_CHECKING:
    from tunesmith.cli.contracts.check import (
        CheckDocument,
        PartDetails,
        RecordDetails,
        ShownDetails,
    )
    from tunesmith.console import Console

_LISTED = 5


def check(
    recipe: Annotated[str, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")],
    show: Annotated[
        int,
        typer.Option(
            min=0,
            help="Print so many records (of several tasks, of each) as the model sees them: what is"
            " learnt is marked.",
            metavar="N",
        ),
    ] = 0,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Look closely at the records: wrong labels, duplicates, personal data and more.",
        ),
    ] = False,
    encoder: Annotated[
        str,
        typer.Option(
            help="Judge labels and outliers by the vectors of this model.", metavar="MODEL"
        ),
    ] = "minilm-l6",
    html: Annotated[
        Path | None, typer.Option(help="Write what was found as a page.", metavar="FILE")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Check a recipe, its data and its model, and say what training will take. Changes nothing.

    Counts and token lengths, what is cut or left out, class balance, duplicates, test records that
    stand in train, memory and time, what will learn, and the smallest difference that the test set
    could show.

    With --deep, each record is looked at for what is wrong with data: labels that the other records
    speak against, near duplicates, leaks, conflicting answers, outliers, odd lengths, refusals,
    boilerplate, personal data and foreign languages. `tunesmith clean` acts on what you choose.

    \b
    Examples:
      tunesmith check recipe.yaml
      tunesmith check recipe.yaml --show 3
      tunesmith check recipe.yaml --deep --show 20 --html check.html
      tunesmith check recipe.yaml --set training.batch_size=16 --json
    """
    with output(as_json) as out:
        from tunesmith import api
        from tunesmith.cli.contracts.check import CheckDocument

        result = api.check(
            recipe,
            overrides=overrides or (),
            show=show,
            deep=deep,
            encoder=encoder,
            html=html,
            console=out.console,
        )
        document = CheckDocument.model_validate(result)
        out.emit(document)
        _describe(document, out)
        if document.deep is not None:
            describe_deep(document.deep, out.result)
        for shown in document.shown:
            _show(shown, out.result)
        for warning in document.warnings:
            out.console.warn(warning)
        if document.page is not None:
            out.line(f"Page: {document.page}")


def _describe(found: CheckDocument, out: Output) -> None:
    from tunesmith.evidence.check_page import facts
    from tunesmith.evidence.figures import count, share

    say = out.result
    for name, text in facts(found.model_dump()).items():
        if text:
            say.note(f"{name:<12}{text}")
    for remark in found.remarks:
        say.note(remark)
    say.note("")
    _data(found, say)
    if found.classes:
        total = sum(found.classes.values())
        say.table(
            "Classes in train",
            ["class", "records", "share"],
            [[name, count(n), share(n / total)] for name, n in found.classes.items()],
        )
    _records("Cut to fit", found.cut, say)
    _records("Left out, as nothing of them would be learnt", found.dropped, say)
    _records("Twice in train", found.exact_duplicates, say)
    _records("Nearly the same as another", found.near_duplicates, say)
    _records("In test and in train", found.leaks, say)


def _data(found: CheckDocument, say: Console) -> None:
    from tunesmith.evidence.figures import count

    def row(name: str, part: PartDetails) -> list[str]:
        figures = (part.records, part.tokens, part.trained_tokens)
        lengths = (part.shortest, part.median, part.longest)
        return [name, *(count(value) for value in (*figures, *lengths))]

    parts = {"train": found.train, "validation": found.validation, "test": found.test}
    say.table(
        "Records",
        ["", "records", "tokens", "learnt", "shortest", "median", "longest"],
        [row(name, part) for name, part in parts.items() if part is not None],
    )


def _records(title: str, records: list[RecordDetails], say: Console) -> None:
    if not records:
        return
    say.note(f"{title}: {len(records)}")
    for record in records[:_LISTED]:
        say.note(f"  {record.origin}: {record.reason}")
    if len(records) > _LISTED:
        say.note(f"  … and {len(records) - _LISTED} more (--json lists all)")


def _show(shown: ShownDetails, say: Console) -> None:
    """Print a record; what is learnt is green on a terminal, and stands in ⟦ ⟧ elsewhere."""
    text = Text()
    inside = False
    for piece in shown.tokens:
        if not say.rich.is_terminal and piece.trained != inside:
            text.append("⟦" if piece.trained else "⟧")
        inside = piece.trained
        text.append(piece.text, style="bold green" if piece.trained else "dim")
    if inside and not say.rich.is_terminal:
        text.append("⟧")
    if shown.learnt is not None:
        text.append(f"\nlearnt: {shown.learnt}", style="bold green")
    say.note(f"\n{shown.origin}")
    say.rich.print(text, soft_wrap=True)
