"""The one place through which anything is said to the person at the terminal.

Library code takes a `Console` and calls `note`, `warn`, `table`, `progress`; it never prints.
It goes to standard error, so that standard output stays free for a result (`--json`, a prediction,
the tables of a command whose result they are). Progress bars appear on a terminal only; elsewhere
a line is written now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table


class Bar:
    """A running progress display: `advance` it; `status` is free text beside it.

    What was `done` before, by another process, says nothing of how fast this one is.
    """

    def __init__(self, console: RichConsole, title: str, total: int, done: int = 0) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._done = self._before = done
        self._status = ""
        self._said_at = self._began_at = time.monotonic()
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"),
                console=console,
            )
            self._task = self._progress.add_task(title, total=total, completed=done, status="")

    def advance(self, steps: int = 1, status: str = "") -> None:
        """Move on by `steps` and show `status`, such as `312 tokens/s  loss 2.31`."""
        self._done += steps
        self._status = status
        if self._progress is not None:
            self._progress.update(self._task, advance=steps, status=status)
        elif time.monotonic() - self._said_at > 10:
            self._said_at = time.monotonic()
            done = f"{self._title} {self._done}/{self._total}"
            self._console.print(f"{done}  {self._eta()}  {status}")

    def _eta(self) -> str:
        here = self._done - self._before
        if not here:
            return ""
        seconds = (time.monotonic() - self._began_at) / here * (self._total - self._done)
        return f"eta {seconds:.0f} s"

    def __enter__(self) -> Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        elif self._done > self._before:
            seconds = time.monotonic() - self._began_at
            self._console.print(
                f"{self._title} {self._done}/{self._total} in {seconds:.1f} s  {self._status}"
            )


class Console:
    """What is said on standard error: notes, warnings, tables, progress.

    Args:
        quiet: say nothing but warnings.
        stdout: speak on standard output, for what *is* the result of a command; warnings still go
            to standard error.
    """

    def __init__(self, *, quiet: bool = False, stdout: bool = False) -> None:
        self.quiet = quiet
        self.rich = RichConsole(stderr=not stdout, quiet=quiet, highlight=False)
        self._warnings = RichConsole(stderr=True, highlight=False)

    def note(self, text: str) -> None:
        """Say one line."""
        self.rich.print(text, markup=False, soft_wrap=not self.rich.is_terminal)

    def warn(self, text: str) -> None:
        """Say one line that should not be missed, even when quiet."""
        self._warnings.print(
            f"[yellow]warning:[/yellow] {_escape(text)}",
            soft_wrap=not self._warnings.is_terminal,
        )

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show rows under their column names."""
        table = Table(title=title, title_justify="left")
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*(_escape(cell) for cell in row))
        self.rich.print(table)

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Show progress over `total` units of work, of which `done` were done before."""
        with Bar(self.rich, title, total, done) as bar:
            yield bar


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


def stdout_line(text: str) -> None:
    """Write one line of result to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
