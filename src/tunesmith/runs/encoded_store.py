"""Encoded records in the user's cache, under a digest of everything that they depend on.

    records, task, tokenizer, … ──place──> <cache>/encoded/<digest>/
        examples.arrow   the examples, memory-mapped by whoever reads them
        about.json       what they depend on, and which records were left out
        SHA256SUMS       checked before anything is read

The records themselves, the task and its options, the tokenizer's files (the chat template among
them), the model's configuration and context, the source code that encodes, versions. Whatever else
a run is about (its technique, its rate) is left out, so that other runs find what one has encoded.
A place that is damaged or half written counts as not there. All that is kept shares one budget.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow

from tunesmith.console import Console
from tunesmith.data.stored import open_tables, write_tables
from tunesmith.models.atomic import UnwritableError, locked, written_aside
from tunesmith.models.cache_space import budget_bytes, bytes_of, make_room, shelf, size_in_words
from tunesmith.models.fingerprint import sha256_of
from tunesmith.models.model import Model
from tunesmith.models.quiet import quiet
from tunesmith.tasks.base import Task

SCHEMA_VERSION = 1

Lost = tuple[int, str]
"""A record that was left out: its place, and why."""

_FILES = ("examples.arrow", "about.json")
_NOT_READ_BY_TASKS = ("_name_or_path", "architectures", "dtype", "transformers_version")
_PACKAGES = ("transformers", "tokenizers")


@dataclass(frozen=True)
class Tables:
    """Encoded records as rows, and which records were left out."""

    tables: Sequence[pyarrow.RecordBatch]
    lost: Sequence[Lost]


@dataclass(frozen=True)
class Store:
    """Where the encoded records of one task with one model are kept.

    Attributes:
        task: bound to `model`.
        cache_gb: the recipe's: how much disk all that is kept may take.
    """

    task: Task
    model: Model
    cache_gb: float | str
    console: Console

    @cached_property
    def about(self) -> dict[str, Any]:
        """What encoded records depend on, beside the records; a large tokenizer takes a second."""
        task, model = self.task, self.model
        config: Any = model.module.config
        stated = {k: v for k, v in config.to_dict().items() if k not in _NOT_READ_BY_TASKS}
        return {
            "schema_version": SCHEMA_VERSION,
            "task": task.name,
            "options": task.options.model_dump(mode="json"),
            "state": task.state(),
            "labels": task.labels,
            "tokenizer": tokenizer_digest(model.tokenizer),
            "config": json.loads(json.dumps(stated, default=str)),
            "context_length": model.anatomy.context_length,
            "code": code_digest(),
            "versions": {name: version(name) for name in _PACKAGES},
        }

    def place(self, texts: Sequence[str], *, drop: bool) -> Path:
        """Return where the examples of these records lie, or would.

        Args:
            texts: the records, as JSON.
            drop: whether those of which nothing would be learnt are left out.
        """
        digest = hashlib.sha256(json.dumps([self.about, drop], sort_keys=True).encode())
        for text in texts:
            content = text.encode()
            digest.update(len(content).to_bytes(8, "little") + content)
        return shelf("encoded") / digest.hexdigest()[:32]

    def found(self, place: Path, size: int, encoded: Callable[[], Iterator[Tables]]) -> Tables:
        """Return what is kept at `place`; else encode, and keep it where the disk allows it.

        Args:
            size: of the records as JSON, in bytes.
            encoded: gives the rows of all records, chunk by chunk.
        """
        if self.cache_gb == 0:
            return joined(encoded())
        needed = 2 * size  # four bytes a token, and what is said of each record
        budget = budget_bytes(self.cache_gb)
        try:
            with locked(place):
                kept = open_encoded(place)
                if kept is not None:
                    self._say("read from", kept, place)
                    return kept
                if needed > budget:
                    return self._in_memory(f"{size_in_words(budget)} of disk may be used", encoded)
                make_room(needed, budget)
                write_encoded(place, self.about, encoded())
                kept = open_encoded(place)
                assert kept is not None
        except UnwritableError as error:
            return self._in_memory(error.what.rstrip("."), encoded)
        self._say("kept in", kept, place)
        return kept

    def _in_memory(self, why: str, encoded: Callable[[], Iterator[Tables]]) -> Tables:
        self.console.note(f"Encoded records stay in memory: {why}.")
        return joined(encoded())

    def _say(self, done: str, kept: Tables, place: Path) -> None:
        rows = sum(table.num_rows for table in kept.tables)
        size = size_in_words(bytes_of(place))
        self.console.note(f"{rows:,} encoded examples: {size}, {done} {place.parent}.")


def joined(parts: Iterator[Tables]) -> Tables:
    """Return the rows of all parts."""
    every = list(parts)
    return Tables(
        [table for part in every for table in part.tables],
        [lost for part in every for lost in part.lost],
    )


def write_encoded(place: Path, about: Mapping[str, Any], parts: Iterator[Tables]) -> None:
    """Write examples as they come; afterwards `place` is whole, or as it was.

    Raises:
        RunError: the disk is full, or cannot be written.
    """
    lost: list[Lost] = []

    def tables() -> Iterator[pyarrow.RecordBatch]:
        for part in parts:
            lost.extend(part.lost)
            yield from part.tables

    with written_aside(place) as aside:
        write_tables(aside / "examples.arrow", tables())
        whole = {**about, "lost": lost}
        (aside / "about.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        sums = [f"{sha256_of(aside / name)}  {name}\n" for name in _FILES]
        (aside / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def open_encoded(place: Path) -> Tables | None:
    """Return what lies at `place`; None where nothing does, or it is not what was written."""
    try:
        lines = (place / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        sums = dict(line.split("  ")[::-1] for line in lines)
        if any(sums[name] != sha256_of(place / name) for name in _FILES):
            return None
        os.utime(place)  # what was not read for longest makes room first
        about = json.loads((place / "about.json").read_text(encoding="utf-8"))
        tables = open_tables(place / "examples.arrow")
    except (OSError, ValueError, KeyError):
        return None
    return Tables(tables, [(position, reason) for position, reason in about["lost"]])


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the SHA-256 of the files that a tokenizer is saved as, its chat template included."""
    digest = hashlib.sha256()
    with TemporaryDirectory() as folder, quiet():
        tokenizer.save_pretrained(folder)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


@cache
def code_digest() -> str:
    """Return the SHA-256 of the source code that turns records into examples."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in ("data", "models", "tasks"):
        for file in sorted((root / package).rglob("*.py")):
            digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
