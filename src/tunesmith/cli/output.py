"""Where a command's result goes: standard output, for people or, with `--json`, for programs.

Results go to standard output; progress, notes and warnings to standard error. With `--json` exactly
one document stands on standard output: until the command is done, whatever else writes there, be
it a library in Python or in C, is led to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.console import Console, stdout_line

if TYPE_CHECKING:
    from tunesmith.cli.contracts.document import Document

_WIDE = 160

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output instead.")
]
RunsDir = Annotated[
    str, typer.Option("--runs-dir", help="Folder of the run directories.", metavar="DIR")
]
AsMember = Annotated[
    str | None,
    typer.Option(
        "--as", help="Of a run of several tasks, the one that is meant.", metavar="MEMBER"
    ),
]
RunArgument = Annotated[
    str, typer.Argument(help="A run: its path, or its name in the folder of runs.", metavar="RUN")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change an option of the recipe, the value in YAML, such as training.seed=1, or "
        "surgery.0.layers=[1] for an item of a list; may be given several times.",
        metavar="KEY=VALUE",
    ),
]


class Output:
    """What a command speaks through.

    Attributes:
        console: progress, notes and warnings, on standard error.
        result: tables and sentences of the result, on standard output; silent with `--json`.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.console = Console()
        self.result = Console(stdout=True, quiet=as_json)
        if not self.result.rich.is_terminal:
            self.result.rich.width = _WIDE  # a pipe has no width: rows stay in one line
        self.as_json = as_json
        self.document: Document | None = None

    def line(self, text: str) -> None:
        """Write one line of result as it is: not wrapped, not styled."""
        if not self.as_json:
            stdout_line(text)

    def emit(self, document: Document) -> None:
        """Take the document that `--json` prints when the command is done."""
        self.document = document


@contextmanager
def output(as_json: bool) -> Iterator[Output]:
    """Speak through an `Output`; with `as_json`, print its document at the end."""
    out = Output(as_json=as_json)
    if not as_json:
        yield out
        return
    with _standard_output_kept_free():
        yield out
    if out.document is not None:
        stdout_line(out.document.model_dump_json(indent=2))


@contextmanager
def _standard_output_kept_free() -> Iterator[None]:
    with redirect_stdout(sys.stderr), _descriptor_led_to_standard_error():
        yield


@contextmanager
def _descriptor_led_to_standard_error() -> Iterator[None]:
    real = sys.__stdout__
    try:
        number = real.fileno() if real is not None else -1
        kept = os.dup(number)
        os.dup2(2, number)
    except (OSError, ValueError):  # closed, or not a file (as under a test runner)
        yield
        return
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)
