"""Encodes the parts of the data: small ones in memory, larger ones once for all runs.

    Dataset ──encode──> Part(data, examples, dropped)

From a megabyte of records on, what was encoded is kept in the cache (`encoded_store.py`) and read
back by every later run, check and evaluation on the same records. From two megabytes on, several
processes encode, chunk by chunk, each taking the next chunk when it has done one. What comes out is
the same, in the same order, whichever way was taken.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from tunesmith.data.batch import Encoded
from tunesmith.data.dataset import Dataset
from tunesmith.data.formats import OR_DROP
from tunesmith.data.records import Dropped
from tunesmith.data.stored import StoredExamples, lengths_of, table_of
from tunesmith.errors import DataError, RunError, UnlearnableError
from tunesmith.runs.encoded_store import Lost, Store, Tables
from tunesmith.tasks.base import Task

_STORED_FROM = 2**20
_PROCESS_BYTES = 2**20
_CHUNK_BYTES = 2**17


@dataclass(frozen=True)
class Part:
    """One part of the data: its records, and the examples that they became.

    `dropped` are the records that were left out when it was encoded.
    """

    data: Dataset
    examples: Sequence[Encoded]
    dropped: tuple[Dropped, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens over all examples."""
        return sum(lengths_of(self.examples))

    @property
    def trained_tokens(self) -> int:
        """Tokens that are learnt."""
        return sum(s.trained() for e in self.examples for s in e.streams.values())


def encode(task: Task, data: Dataset, *, drop: bool = False, store: Store | None = None) -> Part:
    """Encode a part of the data.

    Args:
        drop: leave out records of which nothing would be learnt, rather than refuse them.
        store: where what is large is kept; None: in memory, whatever its size.

    Raises:
        DataError: a record cannot be encoded, or nothing of it (with `drop`: of any) would be
            learnt; names it.
    """
    texts = None if store is None else [record.model_dump_json() for record in data.records]
    if store is None or texts is None or sum(map(len, texts)) < _STORED_FROM:
        examples, lost = encode_some(task, data, range(len(data)), drop=drop)
        return _part(data, examples, lost)
    chunks = _chunks([len(text) for text in texts])
    place = store.place(texts, drop=drop)

    def encoded() -> Iterator[Tables]:
        return _in_chunks(task, data, chunks, drop, store)

    found = store.found(place, sum(map(len, texts)), encoded)
    return _part(data, StoredExamples(found.tables), found.lost)


def _part(data: Dataset, examples: Sequence[Encoded], lost: Sequence[Lost]) -> Part:
    if not lost:
        return Part(data, examples)
    dropped = tuple(Dropped(data.origins[place], reason) for place, reason in lost)
    if len(lost) == len(data):
        raise DataError(
            f"Nothing would be learnt of any of these {len(lost)} records: all were left out.",
            where=dropped[0].origin,
            fix=f"The first, for one: {dropped[0].reason}",
        )
    out = {place for place, _ in lost}
    return Part(data.take([i for i in range(len(data)) if i not in out]), examples, dropped)


def encode_some(
    task: Task, data: Dataset, places: Sequence[int], *, drop: bool
) -> tuple[list[Encoded], list[Lost]]:
    """Encode the records at these places; return the examples, and which records were left out.

    Raises:
        DataError: see `encode`.
    """
    examples: list[Encoded] = []
    lost: list[Lost] = []
    for place in places:
        try:
            examples += task.encode_all([data.records[place]], [data.origins[place]])
        except UnlearnableError as error:
            if not drop:
                fix = f"{error.fix or ''}{OR_DROP}".strip()
                raise DataError(error.what, where=error.where, fix=fix) from None
            lost.append((place, error.what))
    return examples, lost


def _chunks(sizes: Sequence[int]) -> list[range]:
    """Part the places of records into runs of about equal bytes."""
    chunks: list[range] = []
    start = held = 0
    for place, size in enumerate(sizes):
        held += size
        if held >= _CHUNK_BYTES or place == len(sizes) - 1:
            chunks.append(range(start, place + 1))
            start, held = place + 1, 0
    return chunks


def _in_chunks(
    task: Task, data: Dataset, chunks: Sequence[range], drop: bool, store: Store
) -> Iterator[Tables]:
    """Yield the rows of each chunk in order, and say how fast."""
    count = _processes(len(chunks) * _CHUNK_BYTES)
    job = _Job(task, data, drop)
    began, done = time.perf_counter(), 0
    # Processes are forked before the bar, which may draw itself by a thread.
    results = map(job.encode, chunks) if count == 1 else _by_processes(job, chunks, count)
    with store.console.progress("encode", len(data)) as bar:
        for chunk, result in zip(chunks, results, strict=True):
            if isinstance(result, _Refused):
                raise DataError(result.what, where=result.where, fix=result.fix)
            done += len(chunk)
            rate = done / max(time.perf_counter() - began, 1e-9)
            with_others = f" in {count} processes" if count > 1 else ""
            bar.advance(len(chunk), f"{rate:,.0f} records/s{with_others}")
            yield result


def _processes(size: int) -> int:
    """How many processes encode so many bytes; one where this system cannot fork safely."""
    if sys.platform != "linux":
        return 1
    return max(1, min(len(os.sched_getaffinity(0)), size // _PROCESS_BYTES))


@dataclass(frozen=True)
class _Refused:
    """A record that cannot be encoded, on its way between processes."""

    what: str
    where: str | None
    fix: str | None


@dataclass(frozen=True)
class _Job:
    task: Task
    data: Dataset
    drop: bool

    def encode(self, chunk: range) -> Tables | _Refused:
        try:
            examples, lost = encode_some(self.task, self.data, chunk, drop=self.drop)
        except DataError as error:
            return _Refused(error.what, error.where, error.fix)
        return Tables([table_of(examples)], lost)


_job: _Job
"""In a process that encodes: what it was forked with. Records are not sent, they are there."""


def _by_processes(job: _Job, chunks: Sequence[range], count: int) -> Iterator[Tables | _Refused]:
    # Forked: a started one would first import for seconds. It touches neither torch nor a GPU.
    pool = ProcessPoolExecutor(
        count, mp_context=get_context("fork"), initializer=_begin, initargs=(job, os.getpid())
    )
    return _results(pool, pool.map(_encode_chunk, chunks))


def _results(
    pool: ProcessPoolExecutor, results: Iterator[Tables | _Refused]
) -> Iterator[Tables | _Refused]:
    try:
        yield from results
    except BrokenProcessPool as error:
        raise RunError(
            "A process that encoded records was ended from outside, perhaps for want of memory.",
            fix="Free some memory, then run it again.",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(job: _Job, parent: int) -> None:
    """Set up a forked process: quiet, and gone with the one that forked it."""
    import ctypes
    import signal

    global _job
    _job = job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads were not forked
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears it too, and ends this
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _encode_chunk(chunk: range) -> Any:
    return _job.encode(chunk)
