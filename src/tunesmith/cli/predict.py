"""`tunesmith predict`: what a run's model says to texts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.output import AsMember, Json, Output, RunArgument, RunsDir, output
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from tunesmith.tasks.base import Prediction

_WHOLE = ({"question", "context"}, {"text", "text_pair"}, {"query", "documents"},
          {"messages", "tools"})  # fmt: skip
"""Fields of objects that are one input."""
_INPUT_FIELDS = ("messages", "text", "source", "tokens", "prompt", "input")


def predict(
    run: RunArgument,
    texts: Annotated[
        list[str] | None, typer.Argument(help="One or more texts.", metavar="[TEXT]...")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            help="Read inputs from a file, one a line: plain text, or JSON in a .jsonl file. "
            "- is standard input.",
            metavar="FILE",
        ),
    ] = None,
    member: AsMember = None,
    runs_dir: RunsDir = "runs",
    as_json: Json = False,
) -> None:
    """Answer texts with a run's model: a completion, a class, a number, what lacks, a vector.

    A line of a .jsonl file is a text, a list (of chat messages, or of words), an object with
    question and context, with text and text_pair, with query and documents or with messages and
    tools, or one with one of the fields messages, text, source, tokens, prompt or input. A question
    on a text may also be one text whose first line is the question.

    \b
    Examples:
      tunesmith predict my-task-1 "Translate into French: Save as draft"
      tunesmith predict my-task-1 --file questions.txt
      tunesmith predict my-task-1 --file questions.jsonl --json
      tunesmith predict support-1 --as mood "I have been waiting for a week."
    """
    if bool(texts) == (file is not None):
        raise typer.BadParameter("Give either texts or --file FILE.", param_hint="TEXT")
    with output(as_json) as out:
        inputs: list[Any] = list(texts or []) if file is None else read_inputs(file)

        from tunesmith import api
        from tunesmith.cli.contracts.answers import (
            PredictDocument,
            PredictionDetails,
            RankedDetails,
            SpanDetails,
        )

        opened = api.open_run(run, runs_dir=runs_dir).of(member)
        predictions = opened.predict(inputs)
        out.emit(
            PredictDocument(
                run=str(opened.path),
                predictions=[
                    PredictionDetails(
                        input=given,
                        text=answer.text,
                        probabilities=answer.probabilities,
                        spans=[SpanDetails(**asdict(span)) for span in answer.spans],
                        vector=list(answer.vector),
                        score=answer.score,
                        ranking=[RankedDetails(**asdict(text)) for text in answer.ranking],
                    )
                    for given, answer in zip(inputs, predictions, strict=True)
                ],
            )
        )
        _show(inputs, predictions, out)


def _show(inputs: list[Any], predictions: list[Prediction], out: Output) -> None:
    for given, answer in zip(inputs, predictions, strict=True):
        if answer.probabilities:
            shares = answer.probabilities
            named = [answer.text] if answer.text in shares else answer.text.split("; ")
            said = [f"{shares[name]:.3f}" for name in named if name in shares]
            out.line("\t".join((answer.text, *said, _short(given))))
            continue
        if answer.score is not None:
            out.line(f"{answer.text}\t{_short(given)}")
            continue
        if len(inputs) > 1:
            out.line(f"> {_short(given)}")
        for span in answer.spans:
            out.line(f"{span.label}\t{span.probability:.3f}\t{span.text}")
        for ranked in answer.ranking:
            out.line(f"{ranked.relevance:.3f}\t{_short(ranked.text)}")
        if not answer.spans and not answer.ranking:
            out.line(answer.text)


def _short(given: Any) -> str:
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= 70 else f"{text[:69]}…"


def read_inputs(file: str) -> list[Any]:
    """Read one input a line; empty lines are passed over.

    Raises:
        DataError: the file is not there, is no UTF-8, has a broken line, or nothing in it.
    """
    path = Path(file)
    lines = _lines(path, file)
    as_json = path.suffix == ".jsonl"
    inputs = [
        _from_json(line, f"{file}:{number}") if as_json else line
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not inputs:
        raise DataError("There is nothing to answer in it.", where=file, fix="One input a line.")
    return inputs


def _lines(path: Path, file: str) -> list[str]:
    try:
        raw = sys.stdin.buffer.read() if file == "-" else path.read_bytes()
        return raw.decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataError("There is no such file.", where=file, fix="Check the path.") from None
    except IsADirectoryError:
        raise DataError("This is a folder.", where=file, fix="Give one file.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            "This line is not UTF-8 text.", where=f"{file}:{line}", fix="Save the file as UTF-8."
        ) from None


def _from_json(line: str, where: str) -> Any:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"This line is not valid JSON: {error}.",
            where=where,
            fix="Write one JSON value a line, or use another ending than .jsonl for plain text.",
        ) from None
    if isinstance(given, dict):
        if any(given.keys() >= fields for fields in _WHOLE):
            return given
        for name in _INPUT_FIELDS:
            if name in given:
                return given[name]
        raise DataError(
            "This line has no input.", where=where, fix=f"Name it {' or '.join(_INPUT_FIELDS)}."
        )
    if not isinstance(given, str | list):
        raise DataError("This is no text.", where=where, fix="Write a text or a list of messages.")
    return given
