"""Tunesmith's own switches, from outside: an engine with some of its fast paths turned off.

    engine(model_folder, technique, Switches(fuse=False)) ──> Engine, Task

Used by `ladder.py` and `scaling.py`, each point of which is a process of its own: what the
allocator was told lasts as long as the process. Switches that the engine offers are its arguments;
the others replace what a module looks up, in this process alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.console import Console
from tunesmith.engine import engine as engines
from tunesmith.engine.engine import Engine
from tunesmith.engine.optimizer import AdamWOptions
from tunesmith.kernels import native, token_loss
from tunesmith.kernels.allocator import MemoryReuse
from tunesmith.kernels.precision import fast_dtype
from tunesmith.models.load import load_model
from tunesmith.models.resolve import resolve
from tunesmith.models.seeded import seeded
from tunesmith.registry import TASKS, TECHNIQUES
from tunesmith.tasks.base import Task


@dataclass(frozen=True)
class Switches:
    """Which fast paths are taken.

    Attributes:
        packing: documents end to end, attention in blocks of our own; else padded, stock attention.
        fuse: fast forms of norms, adapted layers, feed-forward and attention; else stock modules.
        compiled: the C kernels, built at first use; else PyTorch's operations.
        chunked: the output layer in chunks of rows; else all logits at once.
        reuse: freed memory stays in the process; else glibc's own ways.
        tokens_per_batch: most tokens of one micro-batch.
        float8: linear layers that learn are multiplied in 8 bits.
    """

    packing: bool = True
    fuse: bool = True
    compiled: bool = True
    chunked: bool = True
    reuse: bool = True
    tokens_per_batch: int = 2048
    float8: bool = False


def throw(switches: Switches) -> None:
    """Set in this process what the engine has no argument for. Call before an engine is made."""
    if not switches.compiled:
        off = native.Native(None, "switched off for a measurement")
        native.native = lambda: off  # type: ignore[assignment]
    if not switches.chunked:
        token_loss.CHUNK_BYTES = 1 << 60
    if not switches.reuse:
        kept = MemoryReuse(False, 0, "switched off for a measurement")
        engines.reuse_memory = lambda: kept  # type: ignore[assignment]


def engine(
    model: str, technique: Mapping[str, Any], switches: Switches, seed: int = 0
) -> tuple[Engine, Task]:
    """Return an engine for instructions with these switches, and its task.

    Args:
        model: a name, or a folder.
        technique: its name and options, as in a recipe.
    """
    import torch

    throw(switches)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = fast_dtype(device)
    task: Task = TASKS.get("instruct")()
    loaded = load_model(resolve(model, console=Console(quiet=True)), head="causal_lm", dtype=dtype)
    loaded.module.to(device)
    task.bind(loaded)
    kind = TECHNIQUES.get(technique["name"])
    options = {name: value for name, value in technique.items() if name != "name"}
    chosen = kind(kind.Options(**options))
    with seeded(seed):
        chosen.prepare(loaded)
    made = Engine(
        loaded,
        chosen.parameter_groups(loaded),
        AdamWOptions(),
        dtype=dtype,
        packing=switches.packing,
        fuse=switches.fuse,
        float8=switches.float8,
    )
    return made, task
