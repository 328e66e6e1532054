"""Keeps rooflines in a folder: one JSON file for each machine, device, thread count and torch.

What cannot be read (damaged, or written by another version) counts as not kept: the figures can be
measured again at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tunesmith.roofline.roofline import Roofline

SCHEMA_VERSION = 1

_ROOFLINE = TypeAdapter(Roofline)


def keep(folder: Path, roofline: Roofline) -> Path:
    """Write a roofline, in place of an earlier one of the same identity; return its file.

    Raises:
        OSError: the folder cannot be written.
    """
    path = _file(folder, roofline.identity)
    folder.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    content = {"schema_version": SCHEMA_VERSION, **asdict(roofline)}
    aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return path


def kept(folder: Path, identity: Mapping[str, str]) -> Roofline | None:
    """Return the roofline that was kept of this identity, or None."""
    try:
        content = json.loads(_file(folder, identity).read_text(encoding="utf-8"))
        if content.pop("schema_version") != SCHEMA_VERSION:
            return None
        found = _ROOFLINE.validate_python(content)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ValidationError):
        return None
    return found if found.identity == dict(identity) else None


def _file(folder: Path, identity: Mapping[str, str]) -> Path:
    words = json.dumps(dict(identity), sort_keys=True)
    digest = hashlib.sha256(words.encode()).hexdigest()[:16]
    return folder / f"{identity.get('device', 'device')}-{digest}.json"
