"""Rows of a frozen prefix on disk: written once, memory-mapped ever after, found by token ids.

    <place>/rows.bin            the rows, one after another, bit for bit as they were computed
            index.safetensors   which document they belong to, and where it ends
            about.json          what they are and what they were computed from
            SHA256SUMS          checked before anything is read

A document is known by a digest of its token ids, so that a batch of any composition finds what it
needs. Rows are written as they come (no more than one batch is in memory), aside, and renamed. It
knows no model and computes nothing.

Shapes: R rows, D their width, T tokens of a batch, B its documents.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunesmith.data.batch import Stream
from tunesmith.models.atomic import written_aside
from tunesmith.models.fingerprint import sha256_of

Per = Literal["token", "document"]
Block = tuple[Sequence[bytes], Sequence[int], Tensor]
"""Of some documents: their digests, how many rows each has, and these rows `[R, D]`."""

_DIGEST = 16
_FILES = ("about.json", "index.safetensors", "rows.bin")


@dataclass(frozen=True)
class Rows:
    """The rows of one part of the data.

    Attributes:
        rows_RD: all of them, memory-mapped.
        spans: of each document, by the digest of its ids: the first of its rows, and the end.
    """

    rows_RD: Tensor
    spans: Mapping[bytes, tuple[int, int]]

    @classmethod
    def of(cls, blocks: Iterable[Block]) -> Rows:
        """Return rows that lie in memory."""
        names, counts, rows = zip(*blocks, strict=True)
        ends = [0, *accumulate(count for each in counts for count in each)]
        found = (digest for each in names for digest in each)
        return cls(torch.cat(rows), dict(zip(found, pairwise(ends), strict=True)))

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.rows_RD.nbytes


@dataclass(frozen=True)
class Kept:
    """What an engine may take instead of computing it.

    Attributes:
        per: a row for each token, or one for each document.
        parts: where to look, in this order.
    """

    per: Per
    parts: Sequence[Rows]

    def find(self, stream: Stream) -> Tensor | None:
        """Return the rows of these documents, in order and on their device; None if one lacks."""
        found = []
        for digest in digests(stream):
            rows = next((part for part in self.parts if digest in part.spans), None)
            if rows is None:
                return None
            start, end = rows.spans[digest]
            found.append(rows.rows_RD[start:end])
        return torch.cat(found).to(stream.ids_T.device)


def digests(stream: Stream) -> list[bytes]:
    """Return a digest of the token ids of each document, and of their types if it has several."""
    ids = stream.ids_T.cpu().numpy().astype("<i8")
    types = None if stream.types_T is None else stream.types_T.cpu().numpy().astype("<i8")
    found = []
    for start, end in pairwise(stream.cu_seqlens.tolist()):
        digest = hashlib.blake2b(ids[start:end].tobytes(), digest_size=_DIGEST)
        if types is not None and types[start:end].any():
            digest.update(types[start:end].tobytes())
        found.append(digest.digest())
    return found


def write_rows(place: Path, about: Mapping[str, Any], blocks: Iterable[Block]) -> None:
    """Write rows as they come, and what they are; afterwards `place` is whole, or as it was.

    Raises:
        RunError: the disk is full, or cannot be written.
    """
    names: list[bytes] = []
    ends = [0]
    shape: dict[str, Any] = {}
    with written_aside(place) as aside:
        with (aside / "rows.bin").open("wb") as file:
            for found, counts, rows_RD in blocks:
                _append(file, rows_RD)
                names += found
                for count in counts:
                    ends.append(ends[-1] + count)
                dtype = str(rows_RD.dtype).removeprefix("torch.")
                shape = {"dtype": dtype, "width": rows_RD.shape[1]}
        index = {
            "digests": torch.frombuffer(bytearray(b"".join(names)), dtype=torch.uint8),
            "ends": torch.tensor(ends),
        }
        save_file(index, aside / "index.safetensors")
        whole = {**about, **shape, "rows": ends[-1], "documents": len(names)}
        (aside / "about.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        sums = [f"{sha256_of(aside / name)}  {name}\n" for name in _FILES]
        (aside / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def open_rows(place: Path) -> Rows | None:
    """Return the rows at `place`; None where there are none, or they are not what was written."""
    try:
        if not _is_whole(place):
            return None
        os.utime(place)  # those that were not read for longest make room first
        about = json.loads((place / "about.json").read_text(encoding="utf-8"))
        index = load_file(place / "index.safetensors")
        rows_RD = torch.from_file(
            str(place / "rows.bin"),
            shared=False,
            size=about["rows"] * about["width"],
            dtype=getattr(torch, about["dtype"]),
        ).view(about["rows"], about["width"])
    except OSError:
        return None
    joined, ends = index["digests"].numpy().tobytes(), index["ends"].tolist()
    spans = {
        joined[number * _DIGEST : (number + 1) * _DIGEST]: span
        for number, span in enumerate(pairwise(ends))
    }
    return Rows(rows_RD, spans)


def bytes_at(place: Path) -> int:
    """Return the bytes of the rows at `place`; 0 where there are none."""
    try:
        return (place / "rows.bin").stat().st_size
    except OSError:
        return 0


def _append(file: BinaryIO, rows_RD: Tensor) -> None:
    rows_RD.detach().cpu().contiguous().view(torch.uint8).numpy().tofile(file)


def _is_whole(place: Path) -> bool:
    try:
        lines = (place / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        sums = dict(line.split("  ")[::-1] for line in lines)
        return all(sums[name] == sha256_of(place / name) for name in _FILES)
    except (OSError, ValueError, KeyError):
        return False
