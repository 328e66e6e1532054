"""Which weights these are: the SHA-256 of a folder's weight files.

Hashing gigabytes takes seconds, so a digest is kept in Tunesmith's cache under the file's path,
size and time of change, and is computed again when any of them differs.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from tunesmith.errors import ModelError

_CHUNK = 1 << 20


def cache_root() -> Path:
    """Return the folder for what is fetched or derived: `TUNESMITH_HOME`, else the user's cache."""
    return Path(os.environ.get("TUNESMITH_HOME") or Path.home() / ".cache" / "tunesmith")


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights in `folder`, safetensors preferred, by name.

    Raises:
        ModelError: there are none, or an index names a file that is missing.
    """
    for index, single in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        if (folder / index).is_file():
            return _shards(folder, index)
        if (folder / single).is_file():
            return [folder / single]
    raise ModelError(
        "There are no weights in this folder (model.safetensors, or shards with an index).",
        where=str(folder),
        fix="Give the folder that transformers' save_pretrained wrote, or a .gguf file.",
    )


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the weight files of `folder`, as hexadecimal digits.

    For a single file it is that file's own digest (as `sha256sum` prints); for shards, the digest
    of the lines `name digest`.
    """
    files = weight_files(folder)
    digests = [file_digest(file) for file in files]
    if len(files) == 1:
        return digests[0]
    lines = "".join(f"{file.name} {digest}\n" for file, digest in zip(files, digests, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def file_digest(file: Path) -> str:
    """Return the SHA-256 of `file`, from the cache where it has not changed since."""
    real = file.resolve()
    status = real.stat()
    known = {"path": str(real), "size": status.st_size, "changed": status.st_mtime_ns}
    key = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]
    note = cache_root() / "fingerprints" / key
    try:
        return note.read_text(encoding="ascii")
    except OSError:
        pass
    digest = sha256_of(real)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        aside = note.with_name(f"{key}.{os.getpid()}")
        aside.write_text(digest, encoding="ascii")
        aside.replace(note)
    except OSError:
        pass  # the cache only saves time: a place that cannot be written costs a second hash
    return digest


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of the bytes of `file`."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _shards(folder: Path, index: str) -> list[Path]:
    try:
        names = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()
        files = [folder / name for name in sorted(set(names))]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            "The index of the weights cannot be read.",
            where=str(folder / index),
            fix="Fetch or save the model again.",
        ) from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(
            f"The weights are not complete: {', '.join(missing)} missing.",
            where=str(folder),
            fix="Fetch or save the model again.",
        )
    return files
