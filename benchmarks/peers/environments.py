"""A virtual environment for every peer, pinned, under `benchmarks/.envs/`.

    ensure(PEERS["trl"]) ──> Environment(python, versions) | Environment(failure)

A peer that does not install keeps its failure: the last lines of what pip said, without addresses
and paths of this machine. `torch==2.13.0` is asked for beside every peer, so that all sides compute
with the same library. Where the newest version is refused, an older one is tried that is named
here; what was refused, and why, is kept beside what was installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

HOME = Path(__file__).parent.parent / ".envs"
TORCH = "torch==2.13.0"
_KEPT_LINES = 12
_INSTALL_LIMIT = 1800
_TOLD = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "liger-kernel")


@dataclass(frozen=True)
class Peer:
    """What is installed for a peer.

    Attributes:
        name: of its folder.
        attempts: requirements, pinned, the peer itself first; tried in this order until one set
            installs.
        with_torch: whether it computes with torch.
    """

    name: str
    attempts: tuple[tuple[str, ...], ...]
    with_torch: bool = True


@dataclass(frozen=True)
class Environment:
    """A peer's Python, or why there is none.

    Attributes:
        python: path of the interpreter; None where the peer did not install.
        requirements: what was installed.
        versions: of what it computes with.
        failure: what pip said of the attempts that were refused, if any.
        removed: packages that came along and do not load beside this torch.
    """

    peer: str
    python: str | None
    requirements: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    failure: str | None = None
    removed: tuple[str, ...] = ()


_HUGGING_FACE = (
    "transformers==5.23.0",
    "peft==0.21.2",
    "accelerate==1.15.0",
    "bitsandbytes==0.50.2",
)
PEERS = {
    peer.name: peer
    for peer in (
        Peer("trl", (("trl==1.16.0", *_HUGGING_FACE, "liger-kernel==0.8.5"),)),
        Peer("transformers", (_HUGGING_FACE,)),
        Peer("llamafactory", (("llamafactory==0.9.5", "bitsandbytes==0.50.2"),)),
        Peer("axolotl", (("axolotl==0.21.0",), ("axolotl==0.19.0",))),
        Peer("litgpt", (("litgpt==0.5.13", "requests==2.34.2"),)),
        Peer("ms-swift", (("ms-swift==4.6.0", "bitsandbytes==0.50.2"),)),
        Peer("soup", (("soup-cli[train]==0.77.0",),)),
        Peer("unsloth", (("unsloth==2026.10.9",), ("unsloth==2026.10.7",))),
        Peer("sentence-transformers", (("sentence-transformers==6.2.0",),)),
        Peer("setfit", (("setfit==1.2.0",),)),
        Peer("llama.cpp", (("xllamacpp==2026.10.11549",),), with_torch=False),
    )
}


def ensure(peer: Peer, home: Path = HOME) -> Environment:
    """Return the peer's environment, made now where it is not there yet.

    A failure is kept too, and not tried again until its folder is removed.
    """
    folder = home / peer.name
    kept = folder / "installed.json"
    if kept.exists():
        found = json.loads(kept.read_text())
        if found.pop("attempts") == [list(attempt) for attempt in peer.attempts]:
            lists = {name: tuple(found[name]) for name in ("requirements", "removed")}
            return Environment(**{**found, **lists})
    made = _make(peer, folder)
    kept.write_text(json.dumps({"attempts": peer.attempts, **asdict(made)}, indent=2) + "\n")
    return made


def own(name: str = "tunesmith") -> Environment:
    """The environment that this process runs in."""
    return Environment(name, sys.executable, versions=_versions(sys.executable, name))


def _make(peer: Peer, folder: Path) -> Environment:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    failures = []
    for attempt in peer.attempts:
        asked = (TORCH, *attempt) if peer.with_torch else attempt
        said = _install(python, asked)
        if said is None:
            names = [re.split(r"[\[=]", requirement)[0] for requirement in attempt]
            removed = _remove_broken(python)
            told = _versions(python, *names)
            failure = "\n".join(failures) or None
            return Environment(peer.name, python, attempt, told, failure, removed)
        failures.append(f"$ pip install {' '.join(asked)}\n{said}")
    return Environment(peer.name, None, failure="\n".join(failures))


def _install(python: str, requirements: tuple[str, ...]) -> str | None:
    """Install; return None, or the last lines of what went wrong."""
    command = [python, "-m", "pip", "--no-input", "--disable-pip-version-check", "install"]
    try:
        done = subprocess.run(
            [*command, *requirements], capture_output=True, text=True, timeout=_INSTALL_LIMIT
        )
    except subprocess.TimeoutExpired:
        return f"not installed after {_INSTALL_LIMIT} s"
    return None if done.returncode == 0 else last_lines(done.stdout + "\n" + done.stderr)


def _remove_broken(python: str) -> tuple[str, ...]:
    """Take out companions of torch that do not load beside a build without CUDA.

    Text needs neither; but transformers imports what it finds and fails with it.
    """
    removed = []
    for name in ("torchvision", "torchaudio"):
        check = f"import importlib.util as u, sys; sys.exit(0 if u.find_spec({name!r}) else 3)"
        if subprocess.run([python, "-c", check]).returncode:
            continue
        if subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode:
            command = [python, "-m", "pip", "--quiet", "uninstall", "--yes", name]
            subprocess.run(command, check=True, capture_output=True)
            removed.append(name)
    return tuple(removed)


def last_lines(said: str, lines: int = _KEPT_LINES) -> str:
    """Return the end of a program's output, fit to be published: no addresses, no paths."""
    kept = [
        re.sub(r"\s+", " ", _published(line)).rstrip()[:400]
        for line in said.splitlines()
        if line.strip(" ^~") and not _NOISE.match(line.strip())
    ]
    return "\n".join(kept[-lines:])


_NOISE = re.compile(
    r"Looking in|WARNING: Location|Downloading |Processing |Using cached |\[notice\]"
)
_PATH = re.compile(r"(?:/[\w.+@-]+){2,}/(?=[\w.+@-])")


def _published(line: str) -> str:
    line = re.sub(r"\b(?:https?|file)://\S+", "<address>", line)
    return _PATH.sub("…/", line)


def _versions(python: str, *packages: str) -> dict[str, str]:
    """Ask an interpreter for its own version and those of packages that it has."""
    asked = sorted({*packages, *_TOLD})
    script = (
        "import json, platform\n"
        "from importlib.metadata import PackageNotFoundError, version\n"
        "found = {'python': platform.python_version()}\n"
        f"for name in {asked!r}:\n"
        "    try:\n        found[name] = version(name)\n"
        "    except PackageNotFoundError:\n        pass\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions
