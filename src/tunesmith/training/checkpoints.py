"""Checkpoints: everything from which a run goes on as if it had never stopped.

    checkpoints/step-000120/state.safetensors   what learns, the optimiser's moments
                            progress.json       step, tokens, seconds, the best so far
                            best.safetensors    the best weights so far, where they are kept
                            SHA256SUMS          checked before anything is read
    checkpoints/latest                          the name of the newest, replaced atomically

Order and dropout are functions of (seed, step), so no generator's state needs to be kept. A
checkpoint is written aside, flushed and renamed: a reader sees a whole one or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tunesmith.errors import RunError
from tunesmith.models.atomic import written_aside
from tunesmith.stored import Stored, built


@dataclass
class Progress:
    """How far a run is, in steps, tokens and seconds, and the best that validation saw.

    `bad` counts validations since the best; `seconds` is time spent in training steps, `waited` the
    part of it in which the next records were not ready; `flops` are those that the model needed,
    `possible_flops` those that the machine could have done meanwhile. `position` is from where a
    stream of records goes on; None where they are read at once.
    """

    step: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    examples: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    flops: float = 0.0
    possible_flops: float = 0.0
    best: float | None = None
    best_step: int | None = None
    bad: int = 0
    stopped_early: bool = False
    initial_digest: str = ""
    position: Mapping[str, Any] | None = None

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation so far, as a share; None where FLOPs were not counted."""
        return self.flops / self.possible_flops if self.possible_flops else None

    def since(self, earlier: Progress) -> Progress:
        """Return what was done after `earlier`: tokens, seconds, FLOPs; the rest stays."""
        return replace(
            self,
            tokens=self.tokens - earlier.tokens,
            seconds=self.seconds - earlier.seconds,
            flops=self.flops - earlier.flops,
            possible_flops=self.possible_flops - earlier.possible_flops,
        )


@dataclass(frozen=True)
class Checkpoint:
    """What `Checkpoints.latest` read back."""

    progress: Progress
    state: Stored
    best: dict[str, Tensor] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie.
        keep: how many of the newest are kept.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def save(
        self,
        progress: Progress,
        state: Mapping[str, Tensor],
        best: Mapping[str, Tensor] | None = None,
    ) -> Path:
        """Write a checkpoint, name it the latest, drop those that are too old.

        Raises:
            RunError: the disk is full or cannot be written; earlier checkpoints stay.
        """
        target = self.folder / f"step-{progress.step:06d}"
        with written_aside(target) as aside:
            save_file(_contiguous(state), aside / "state.safetensors")
            if best:
                save_file(_contiguous(best), aside / "best.safetensors")
            (aside / "progress.json").write_text(json.dumps(asdict(progress), indent=2))
            sums = [f"{_sha256(file)}  {file.name}\n" for file in sorted(aside.iterdir())]
            (aside / "SHA256SUMS").write_text("".join(sums))
        self._name_latest(target.name)
        for old in sorted(self.folder.glob("step-*"))[: -self._keep]:
            shutil.rmtree(old)
        return target

    def latest(self) -> Checkpoint | None:
        """Read the newest checkpoint, or None where there is none.

        Raises:
            RunError: a file of it is damaged or missing.
            InputError: another version wrote it; likewise where `state` is asked for what it lacks.
        """
        pointer = self.folder / "latest"
        if not pointer.exists():
            return None
        source = self.folder / pointer.read_text().strip()
        _verify(source)
        best = source / "best.safetensors"
        progress, state = source / "progress.json", source / "state.safetensors"
        return Checkpoint(
            built(Progress, Stored(json.loads(progress.read_text()), progress)),
            Stored(load_file(state), state),
            load_file(best) if best.exists() else {},
        )

    def _name_latest(self, name: str) -> None:
        aside = self.folder / ".latest.part"
        aside.write_text(name + "\n")
        os.replace(aside, self.folder / "latest")


def _verify(source: Path) -> None:
    try:
        lines = (source / "SHA256SUMS").read_text().splitlines()
        damaged = [n for s, n in (line.split("  ") for line in lines) if _sha256(source / n) != s]
    except OSError as error:
        raise RunError(
            f"The checkpoint cannot be read: {error.strerror}.",
            where=str(error.filename),
            fix="Name an earlier one in `checkpoints/latest`, or start the run anew.",
        ) from error
    if damaged:
        raise RunError(
            f"The checkpoint is damaged: {', '.join(damaged)} is not what was written.",
            where=str(source),
            fix="Name an earlier one in `checkpoints/latest`, or start the run anew.",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
