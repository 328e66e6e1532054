"""The run directory: where each thing of a run lies, its lock and its schema version.

    runs/<name>/
      recipe.yaml          as resolved: every default
      record.json          schema version, data and base fingerprints, versions, hardware, labels
      events.jsonl         one line a step
      checkpoints/         see training/checkpoints.py
      model/               the result, loadable without Tunesmith
      retain/              old texts that the model wrote, what mattered for old texts; curve.json:
                           points between before and after
      evaluation/          scores before and after, noise, metrics.json, predictions.parquet
      summary.json         the run in figures
      report.html

A run is resumable from this directory alone. Two processes on one run: the second is refused.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tunesmith.errors import InputError, RunError, suggest
from tunesmith.models.atomic import unwritable
from tunesmith.stored import Stored

SCHEMA_VERSION = 1

_LOCK = ".lock"
_BEFORE_THE_RECORD = {_LOCK, "recipe.yaml", ".recipe.yaml.part", ".record.json.part"}


class _AtWorkError(RunError):
    """Another process holds the run."""


class RunFolder:
    """The files of one run, by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first = False
        self.recipe = path / "recipe.yaml"
        self.record = path / "record.json"
        self.events = path / "events.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.task = self.model / "task.json"
        self.evaluation = path / "evaluation"
        self.noise = self.evaluation / "noise.json"
        self.metrics = self.evaluation / "metrics.json"
        self.predictions = self.evaluation / "predictions.parquet"
        self.retain = path / "retain"
        self.written = self.retain / "written"
        self.curve = self.retain / "curve.json"
        self.summary = path / "summary.json"
        self.report = path / "report.html"

    @property
    def finished(self) -> bool:
        """Whether all is there that the end of a run leaves."""
        left = (self.metrics, self.predictions, self.task, self.summary, self.report)
        return all(file.exists() for file in left)

    @classmethod
    @contextmanager
    def creating(cls, runs_dir: Path, name: str, *, numbered: bool) -> Iterator[RunFolder]:
        """Make a new run directory, and hold it for this process alone while inside.

        One that another process made and was killed in, before it wrote what the run is, is taken
        over: nothing lies in it but that process's lock.

        Args:
            numbered: add the first free number to `name`; otherwise the name must be free.

        Raises:
            InputError: the name is taken, or is none that a folder can have.
            RunError: the place cannot be written, or another process is making this very run.
        """
        if Path(name).name != name or name in ("", ".."):
            raise InputError(
                f"A run cannot be called {name!r}.",
                where="--name",
                fix="Give a word without slashes; the folder of runs is --runs-dir.",
            )
        first = not runs_dir.exists()
        for number in itertools.count(1):
            folder = cls(runs_dir / (f"{name}-{number}" if numbered else name))
            folder._first = first
            with ExitStack() as held:
                try:
                    free = folder._made_or_left() and folder._hold(held)
                except _AtWorkError:
                    if not numbered:
                        raise
                    continue
                if free:
                    yield folder
                    return
            if not numbered:
                raise _taken(folder.path)

    def _made_or_left(self) -> bool:
        """Make the directory; True as well where it is one that was made and never used."""
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            return self._never_begun() and (self.path / _LOCK).exists()
        except OSError as error:
            raise unwritable(error, self.path) from error
        return True

    def _hold(self, held: ExitStack) -> bool:
        """Take the lock; False where another process began the run, or removed it, meanwhile."""
        held.enter_context(self.locked())
        return self._never_begun()

    def _never_begun(self) -> bool:
        """Whether nothing is there but what stands before the record of a run does."""
        try:
            return {entry.name for entry in self.path.iterdir()} <= _BEFORE_THE_RECORD
        except OSError:
            return False

    @classmethod
    def open(cls, run: str | Path, runs_dir: Path) -> RunFolder:
        """Open the directory of an existing run, given by its path or its name in `runs_dir`.

        Raises:
            InputError: there is no such run, or another version of Tunesmith wrote it.
        """
        for path in (Path(run), runs_dir / run):
            if (path / "record.json").exists():
                folder = cls(path)
                folder._check_version()
                return folder
        known = [entry.parent.name for entry in runs_dir.glob("*/record.json")]
        raise InputError(
            f"There is no run called {str(run)!r} here.",
            fix=suggest(str(run), known) if known else f"No run lies in {runs_dir}/ yet.",
        )

    @property
    def resume_command(self) -> str:
        """What to type to go on with this run: by its path, so that it needs no --runs-dir."""
        return f"tunesmith train --resume {shlex.quote(str(self.path))}"

    def discard(self) -> None:
        """Remove the directory of a run that never began, and the folder of runs made for it."""
        shutil.rmtree(self.path)
        if self._first:
            with suppress(OSError):  # another run began there meanwhile
                self.path.parent.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process alone.

        Raises:
            RunError: another process is at work on it.
        """
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise _AtWorkError(
                "Another process is at work on this run.",
                where=str(self.path),
                fix="Wait for it, or give this one another --name.",
            ) from None
        except OSError as error:
            raise unwritable(error, self.path) from error
        try:
            yield
        finally:
            lock.release()

    def write(self, path: Path, text: str) -> None:
        """Write a text file of the run: whole or not at all.

        Raises:
            RunError: the disk is full or cannot be written.
        """
        aside = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise unwritable(error, path) from error

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the run."""
        self.write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read a JSON file of the run.

        Raises:
            InputError: the run has no such file (it did not get that far), or it is damaged.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"This run has no {path.name} yet: it has not finished.",
                where=str(self.path),
                fix=f"Go on with it: {self.resume_command}",
            ) from None
        except ValueError as error:
            raise InputError(f"Not readable as JSON: {error}.", where=str(path)) from error
        return content

    def read_stored(self, path: Path) -> Stored:
        """Read a JSON file of the run to go on from, or to make something of.

        Raises:
            InputError: the run has no such file, or it is damaged; likewise where it is asked for
                what it lacks.
        """
        return Stored(self.read_json(path), path)

    def _check_version(self) -> None:
        version = self.read_json(self.record).get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(
                f"This run has schema version {version}; this Tunesmith reads {SCHEMA_VERSION}.",
                where=str(self.path),
                fix="Open it with the version of Tunesmith named in its record.json.",
            )


def _taken(path: Path) -> InputError:
    if (path / "record.json").exists():
        return InputError(
            f"There is already a run called {path.name!r}.",
            where=str(path),
            fix=f"Choose another --name, or go on with it: {RunFolder(path).resume_command}",
        )
    return InputError(
        "There is something of that name already, which is no run.",
        where=str(path),
        fix="Choose another --name, or remove it.",
    )
