"""Which roofline a run is held against, and measuring this machine's for all runs to come.

    measure_hardware()    every device, kept in Tunesmith's cache      `tunesmith bench hardware`
    roof_of(engine)       what was kept, else half a second of measuring, once a process

A figure is only used for the machine, the device, the build of PyTorch and the number of threads
that it was measured with.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from tunesmith.console import Console
from tunesmith.engine.engine import Engine
from tunesmith.models.fingerprint import cache_root
from tunesmith.models.flops import training_cost
from tunesmith.roofline.kept import keep, kept
from tunesmith.roofline.measure import Effort, brief_rate, measure
from tunesmith.roofline.roofline import ProductRate, Roofline
from tunesmith.runs.hardware import hardware
from tunesmith.stored import built
from tunesmith.training.utilisation import Meter, Roof


@dataclass(frozen=True)
class HardwareMeasured:
    """What `measure_hardware` found.

    Attributes:
        devices: a roofline of each, the CPU first.
        files: where each is kept; None for one that could not be.
        warnings: why figures may not be the machine's own.
    """

    devices: list[Roofline]
    files: list[Path | None]
    warnings: list[str]


def measure_hardware(
    *, console: Console | None = None, effort: Effort | None = None
) -> HardwareMeasured:
    """Measure this machine: the CPU with the threads that PyTorch uses, and a CUDA device if any.

    The result is kept in the cache, where every training finds it. Takes about 12 seconds a
    device; let nothing else run meanwhile.
    """
    console = console or Console()
    found: list[Roofline] = []
    files: list[Path | None] = []
    warnings: list[str] = []
    for device in devices():
        console.note(f"Measuring {_name(device)}.")
        roofline = measure(device, _name(device), identity(device), effort)
        found.append(roofline)
        warnings += roofline.cautions()
        try:
            files.append(keep(_folder(), roofline))
        except OSError as error:
            files.append(None)
            warnings.append(
                f"The figures could not be kept in {_folder()} ({error.strerror}): training will "
                "measure for itself."
            )
    return HardwareMeasured(found, files, warnings)


def devices() -> list[torch.device]:
    """Return the devices that there are to measure."""
    gpu = [torch.device("cuda")] if torch.cuda.is_available() else []
    return [torch.device("cpu"), *gpu]


def identity(device: torch.device) -> dict[str, str]:
    """Return what the figures of a device depend on."""
    about = hardware()
    keys = ("cpu", "cores", "threads", "capability", "features")
    own = {key: about[key] for key in keys} if device.type == "cpu" else {"gpu": about["gpu"]}
    stated = {"device": device.type, "torch": torch.__version__, **own}
    return {key: " ".join(v) if isinstance(v, list) else str(v) for key, v in stated.items()}


def roof_of(engine: Engine) -> Roof:
    """Return the rate that this engine's training is held against: as kept, else measured now."""
    device = torch.device(engine.device.type)
    dtype = str(engine.dtype).removeprefix("torch.")
    threads = torch.get_num_threads() if device.type == "cpu" else None
    roofline = kept(_folder(), identity(device))
    product = roofline.product(dtype, threads) if roofline else None
    if roofline is None or product is None:
        return _brief(device, engine.dtype, threads)
    busy = roofline.surroundings.busy
    return _roof(product, device, "kept", roofline.measured, busy)


def meter_of(engine: Engine, record: Mapping[str, Any]) -> Meter | None:
    """Return what counts the FLOPs of this run's steps; None where they cannot be counted.

    Args:
        record: of the run. Its roof stays while the run goes on where it began; on another
            machine, or with other threads, there is another roof.
    """
    anatomy = engine.model.anatomy
    if anatomy.kind not in ("decoder", "encoder") and anatomy.encoder is None:
        return None
    kept = engine.kept
    model, layers = engine.model, engine.prefix.layers if kept else 0
    cost = training_cost(model.module, anatomy, layers, model.virtual)
    if kept and kept.per == "document":
        cost = cost.of_heads()
    noted = record.get("roof")
    if noted and noted["identity"] == identity(torch.device(engine.device.type)):
        return Meter(cost, built(Roof, noted), engine.begun)
    return Meter(cost, roof_of(engine), engine.begun)


@cache
def _brief(device: torch.device, dtype: torch.dtype, threads: int | None) -> Roof:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    rate, surroundings = brief_rate(device, dtype)
    return _roof(rate, device, "brief", now, surroundings.busy)


def _roof(
    product: ProductRate,
    device: torch.device,
    source: Literal["kept", "brief"],
    measured: str,
    busy: bool,
) -> Roof:
    return Roof(
        flops_per_second=product.flops.best,
        dtype=product.dtype,
        threads=product.threads,
        device=device.type,
        source=source,
        measured=measured,
        samples=product.flops.samples,
        spread=product.flops.spread,
        busy=busy,
        identity=identity(device),
    )


def _folder() -> Path:
    return cache_root() / "rooflines"


def _name(device: torch.device) -> str:
    about = hardware()
    return str(about["gpu"] if device.type == "cuda" else about["cpu"])
