"""`tunesmith clean`: records written anew, without what was found in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.output import Json, Overrides, output

if TYPE_CHECKING:
    from tunesmith.cli.contracts.clean import CleanDocument
    from tunesmith.console import Console


def clean(
    source: Annotated[
        str,
        typer.Argument(
            help="A recipe (its training records are cleaned), or a file or folder of records.",
            metavar="RECIPE|FILE",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="The new file, in the format of its source.", metavar="NEW"),
    ],
    drop: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out records with this kind of finding; may be given several times. Without "
            "--drop and --change: duplicate, leak and empty.",
            metavar="KIND",
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            help="Mend this kind: wrong_label takes the label that the encoder gives, personal "
            "puts the kind in the place of the data, as [EMAIL].",
            metavar="KIND",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Records that stand in this file too are leaks; of a recipe its own test and "
            "validation files always count.",
            metavar="FILE",
        ),
    ] = None,
    sure: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="How sure it must be that a label is wrong.", metavar="SHARE"
        ),
    ] = 0.7,
    encoder: Annotated[
        str,
        typer.Option(
            help="Judge labels and outliers by the vectors of this model.", metavar="MODEL"
        ),
    ] = "minilm-l6",
    log: Annotated[
        Path | None,
        typer.Option(help="What was done and why; beside NEW by default.", metavar="FILE"),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Write records anew without what was found in them. The source is never touched.

    Kinds are those of `tunesmith check --deep`: duplicate, near_duplicate, leak, conflict,
    wrong_label, outlier, length, refusal, boilerplate, personal, language; and empty, a record of
    which nothing would be learnt. Only the kinds that you name are acted upon. Nothing is ever
    overwritten, and the log says of each record that did not stay where it stood and why it went.

    \b
    Examples:
      tunesmith clean train.jsonl --out train.clean.jsonl
      tunesmith clean recipe.yaml --out clean.csv --drop duplicate --drop leak --drop wrong_label
      tunesmith clean chats.jsonl --out shared.jsonl --change personal --drop refusal
    """
    with output(as_json) as out_:
        from tunesmith import api
        from tunesmith.cli.contracts.clean import CleanDocument

        result = api.clean(
            source,
            out,
            drop=drop or (),
            change=change or (),
            against=against or (),
            sure=sure,
            encoder=encoder,
            log=log,
            overrides=overrides or (),
            console=out_.console,
        )
        document = CleanDocument.model_validate(result)
        out_.emit(document)
        _describe(document, out_.result)


def _describe(found: CleanDocument, say: Console) -> None:
    from tunesmith.evidence.figures import count, label

    for file in found.files:
        kept = file.records - file.dropped
        say.note(
            f"{file.written}: {count(kept)} of {count(file.records)} records of {file.source}"
            f" ({found.format}), {count(file.changed)} of them changed."
        )
    for verb, counts in (("dropped", found.dropped), ("changed", found.changed)):
        for kind, number in counts.items():
            say.note(f"  {verb} {count(number)}: {label(kind)}")
    for remark in found.remarks:
        say.note(remark)
    say.note(f"What was done and why: {found.log}")
