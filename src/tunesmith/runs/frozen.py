"""Frozen layers computed once: what they give is kept on disk, and never computed again.

    decide(prepared) ──> Frozen (into the run's record) ──keep──> engine.kept

What lies below the first thing that learns gives the same for a text in every epoch, before and
after training, and in other runs on the same model and data. It is kept where that pays: it must
fit the disk that the recipe allows, and reading it must be faster than computing it. A resumed run
takes the decision from its record. Rows lie in the user's cache under a digest of everything that
they depend on (`frozen_name.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.console import Console
from tunesmith.data.batch import Batch, Encoded, collate
from tunesmith.engine.batching import batches
from tunesmith.engine.engine import Engine
from tunesmith.engine.kept_rows import (
    Block,
    Kept,
    Per,
    Rows,
    bytes_at,
    digests,
    open_rows,
    write_rows,
)
from tunesmith.evaluation.probe import probe_examples
from tunesmith.models.atomic import locked
from tunesmith.models.cache_space import budget_bytes, make_room, shelf, size_in_words
from tunesmith.objectives.base import Pooled
from tunesmith.runs.frozen_name import depends_on, name_of, text_ids
from tunesmith.runs.prepare import Prepared
from tunesmith.stored import built

_SAMPLE_TOKENS = 512
_SAMPLE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Frozen:
    """What was decided on the frozen layers of a run.

    Attributes:
        layers, of: how many layers lie below the first thing that learns, of how many.
        per: what is kept: a row for each token, or one for each document.
        bytes: that the rows take; None where that was not looked at.
        parts: of each part of the data, under which name its rows lie in the cache.
        refused: why they are computed in every pass all the same; None where they are kept.
    """

    layers: int
    of: int
    per: Per
    bytes: int | None
    parts: Mapping[str, str]
    refused: str | None

    @property
    def named(self) -> str:
        """The layers, as a sentence begins with them."""
        which = "layer 1" if self.layers == 1 else f"layers 1-{self.layers}"
        return f"Frozen {which} of {self.of}"


@dataclass(frozen=True)
class Source:
    """What computes rows, and how.

    Attributes:
        weights: the digest of the engine's frozen layers.
        tokens_per_batch: most tokens of the batches in which rows are computed.
        per: what is kept: a row for each token, or one for each document.
    """

    engine: Engine
    weights: str
    tokens_per_batch: int
    per: Per

    def about(self, examples: Sequence[Encoded]) -> dict[str, Any]:
        """Return what the rows of these examples depend on."""
        return depends_on(self.engine, self.weights, self.tokens_per_batch, examples, self.per)


def decide(prepared: Prepared) -> Frozen | None:
    """Decide whether what the frozen layers give is kept; None where no layer is frozen.

    Takes a few forward passes of up to 512 tokens, and writes a few megabytes to see how fast they
    are read again; nothing of that where an earlier run has kept the rows.
    """
    engine = prepared.engine
    layers = engine.prefix.layers
    if not layers:
        return None
    of = len(engine.model.anatomy.layers)
    per: Per = "token"
    if engine.prefix.whole and prepared.objective.readout is Pooled:
        per = "document"
    stated = prepared.recipe.training.cache_gb
    refused = "training.cache_gb is 0" if stated == 0 else None
    if refused is None and prepared.task.varies:
        refused = "every epoch sees other tokens"
    if refused is None and engine.model.members:
        refused = "several tasks read them"
    if refused is None and prepared.streamed is not None:
        refused = "the records are streamed"
    if refused is None and set(prepared.train.examples[0].streams) != {"text"}:
        refused = "the records are made of several texts"
    if refused is None and per == "token":
        refused = engine.refuses_rows()
    if refused:
        return Frozen(layers, of, per, None, {}, refused)
    parts, source = _parts(prepared), _source(prepared, per)
    names = {name: name_of(source.about(examples)) for name, examples in parts.items()}
    sizes = [bytes_at(frozen_folder() / name) for name in names.values()]
    size = sum(sizes)
    if not all(sizes):
        size, refused = _judge(engine, parts, per, budget_bytes(stated))
    return Frozen(layers, of, per, size, names, refused)


def keep(frozen: Frozen | None, prepared: Prepared, console: Console) -> None:
    """Let the engine take kept rows from here on; compute those that are not there yet, and say so.

    Raises:
        RunError: the disk is full, or cannot be written.
    """
    if frozen is None:
        return
    if frozen.refused:
        console.note(f"{frozen.named} computed in every pass: {frozen.refused}.")
        return
    folder, parts = frozen_folder(), _parts(prepared)
    source = _source(prepared, frozen.per)
    abouts = {name: source.about(rows) for name, rows in parts.items()}
    places = {name: folder / name_of(about) for name, about in abouts.items()}
    budget = budget_bytes(prepared.recipe.training.cache_gb)
    there = sum(map(bytes_at, places.values()))
    make_room(max(0, (frozen.bytes or 0) - there), budget, places.values())
    found: list[Rows] = []
    computed = 0
    for name, examples in parts.items():
        rows, seconds = _rows_at(places[name], abouts[name], source, examples, console)
        if name == "train":
            prepared.frozen_seconds = seconds
        computed += seconds > 0
        found.append(rows)
    prepared.engine.kept = Kept(frozen.per, found)
    size = size_in_words(sum(rows.nbytes for rows in found))
    if computed:
        console.note(f"{frozen.named} computed once: {size}, kept in {folder}.")
    else:
        console.note(f"{frozen.named} computed before: {size}, read from {folder}.")


def rows_of(
    source: Source, examples: Sequence[Encoded], cache_gb: float | str, console: Console
) -> Rows | None:
    """Return the rows of some examples, computed where they are not kept; None for want of disk.

    Raises:
        RunError: the disk is full, or cannot be written.
    """
    examples = _once(examples)
    about = source.about(examples)
    place = frozen_folder() / name_of(about)
    if not bytes_at(place):
        row = source.engine.frozen_rows(collate(examples[:1]), source.per)
        needed = _count(examples, source.per) * row[:1].nbytes
        budget = budget_bytes(cache_gb)
        if needed > budget:
            return None
        make_room(needed, budget)
    return _rows_at(place, about, source, examples, console)[0]


def _rows_at(
    place: Path,
    about: Mapping[str, Any],
    source: Source,
    examples: Sequence[Encoded],
    console: Console,
) -> tuple[Rows, float]:
    """Return the rows at a place, and the seconds that it took to put them there; 0: they were."""
    seconds = 0.0
    with locked(place):
        rows = open_rows(place)
        if rows is None:
            began = time.perf_counter()
            write_rows(place, about, _blocks(source, examples, console))
            seconds = time.perf_counter() - began
            rows = open_rows(place)
    assert rows is not None
    return rows, seconds


def hold(frozen: Frozen, engine: Engine, batches: Iterable[Batch]) -> None:
    """Let the engine take the rows of these batches from memory: a trial, of which nothing stays.

    Args:
        frozen: a decision to keep rows.
    """
    rows = Rows.of(_block(engine, batch, frozen.per) for batch in batches)
    engine.kept = Kept(frozen.per, [rows])


def taken_again(record: Mapping[str, Any] | None) -> Frozen | None:
    """Return the decision of a run's record."""
    return None if record is None else built(Frozen, record)


def frozen_folder() -> Path:
    """Return where rows lie; any of it may be deleted at any time."""
    return shelf("frozen")


def reading_rate(folder: Path) -> float:
    """Return how many bytes a second are read from the disk of a folder, by writing a few first.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f".rate-{os.getpid()}"
    try:
        with file.open("wb") as stream:
            stream.write(os.urandom(_SAMPLE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        return _SAMPLE_BYTES / min(_seconds_to_read(file) for _ in range(3))
    finally:
        file.unlink(missing_ok=True)


def _seconds_to_read(file: Path) -> float:
    with file.open("rb") as stream:
        if hasattr(os, "posix_fadvise"):  # out of memory, so that the disk is what is timed
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        stream.read()
        return time.perf_counter() - began


def seconds_and_rows(engine: Engine, examples: Sequence[Encoded], per: Per) -> tuple[float, Any]:
    """Return how long the rows of some examples take to be computed, and these rows."""
    batch = collate(examples)
    taken = []
    for _ in range(2):  # the first also pays for memory and kernels that stay
        began = time.perf_counter()
        rows = engine.frozen_rows(batch, per).cpu()
        taken.append(time.perf_counter() - began)
    return min(taken), rows


def _judge(
    engine: Engine, parts: Mapping[str, Sequence[Encoded]], per: Per, budget: int
) -> tuple[int, str | None]:
    """Predict the bytes of all rows, and say why they are not worth keeping, if so."""
    sample = _first(parts["train"])
    seconds, rows = seconds_and_rows(engine, sample, per)
    everything = [example for examples in parts.values() for example in examples]
    size = _count(everything, per) * rows.nbytes // len(rows)
    if size > budget:
        allowed = size_in_words(budget)
        return size, f"they would take {size_in_words(size)}, and {allowed} may be used"
    try:
        rate = reading_rate(frozen_folder())
    except OSError as error:
        return size, f"{frozen_folder()} cannot be written ({error.strerror})"
    if rows.nbytes / rate >= seconds:
        return size, f"reading {size_in_words(size)} would take as long"
    return size, None


def _count(examples: Sequence[Encoded], per: Per) -> int:
    return sum(1 if per == "document" else example.length for example in examples)


def _source(prepared: Prepared, per: Per) -> Source:
    budget = prepared.recipe.evaluation.tokens_per_batch
    return Source(prepared.engine, prepared.frozen_digest, budget, per)


def _first(examples: Sequence[Encoded]) -> list[Encoded]:
    """The first examples, up to a few hundred tokens."""
    taken, tokens = [examples[0]], examples[0].length
    for example in examples[1:]:
        tokens += example.length
        if tokens > _SAMPLE_TOKENS:
            break
        taken.append(example)
    return taken


def _parts(prepared: Prepared) -> dict[str, Sequence[Encoded]]:
    """Everything that is read in a run, by parts, each text of a part once."""
    parts = {"train": _learnt(prepared), "test": prepared.test.examples}
    if prepared.validation is not None:
        parts["validation"] = prepared.validation.examples
    if prepared.recipe.evaluation.probe:
        parts["probe"] = probe_examples(prepared.engine)
    return {name: _once(examples) for name, examples in parts.items() if examples}


def _learnt(prepared: Prepared) -> Sequence[Encoded]:
    """The training examples that will be seen: of a short run not all."""
    plan = prepared.plan()
    examples = plan.examples
    if prepared.technique.solver or len(plan) >= plan.steps_per_epoch:
        return examples
    return [examples[i] for step in range(len(plan)) for i in plan.indices(step)]


def _once(examples: Sequence[Encoded]) -> list[Encoded]:
    first: dict[tuple[int, ...], Encoded] = {}
    for example in examples:
        first.setdefault(text_ids(example), example)
    return list(first.values())


def _blocks(source: Source, examples: Sequence[Encoded], console: Console) -> Iterator[Block]:
    engine = source.engine
    with console.progress("frozen layers", len(examples)) as bar:
        for batch in batches(examples, source.tokens_per_batch, engine.packed):
            yield _block(engine, batch, source.per)
            bar.advance(len(batch))


def _block(engine: Engine, batch: Batch, per: Per) -> Block:
    counts = batch.text.lengths if per == "token" else [1] * len(batch)
    return digests(batch.text), counts, engine.frozen_rows(batch, per)
