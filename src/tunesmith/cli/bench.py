"""`tunesmith bench`: what this machine can do, as a measure for how fast training is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tunesmith.cli.output import Json, output

if TYPE_CHECKING:
    from tunesmith.cli.contracts.hardware import DeviceDetails
    from tunesmith.console import Console

app = typer.Typer(help="Measure this machine.")


@app.callback()
def bench() -> None:
    """Measure this machine, as the roof that the speed of training is held against."""


@app.command()
def hardware(as_json: Json = False) -> None:
    """Measure matrix products, memory and page faults, and keep the figures for training.

    Products of matrices in float32 and bfloat16, by one thread and by all that PyTorch uses
    (OMP_NUM_THREADS sets how many); memory read, written and copied; the cost of touching a page
    for the first time; the same on a CUDA device where there is one. Takes about 12 seconds a
    device. Let nothing else run meanwhile: where something does, it says so.

    Training then tells how much of this rate goes into the model (MFU), in its progress, its
    events and its report. Figures are kept by processor, threads, device and version of PyTorch.

    \b
    Examples:
      tunesmith bench hardware
      tunesmith bench hardware --json > hardware.json
    """
    with output(as_json) as out:
        from tunesmith import api
        from tunesmith.cli.contracts.hardware import DeviceDetails, HardwareDocument

        measured = api.measure_hardware(console=out.console)
        devices = [
            DeviceDetails.model_validate(device).model_copy(
                update={"file": None if file is None else str(file)}
            )
            for device, file in zip(measured.devices, measured.files, strict=True)
        ]
        out.emit(HardwareDocument(devices=devices, warnings=measured.warnings))
        for device in devices:
            _show(device, out.result)
        for warning in measured.warnings:
            out.console.warn(warning)


def _show(device: DeviceDetails, say: Console) -> None:
    from tunesmith.evidence.figures import rate, share

    rows = [
        [f"{p.size} × {p.size} product, {p.dtype}", _threads(p.threads),
         rate(p.flops.best, "FLOP/s"), rate(p.flops.median, "FLOP/s"), share(p.flops.spread)]
        for p in device.products
    ]  # fmt: skip
    rows += [
        [f"memory, {b.kind}", _threads(b.threads),
         rate(b.bytes.best, "B/s"), rate(b.bytes.median, "B/s"), share(b.bytes.spread)]
        for b in device.bandwidths
    ]  # fmt: skip
    fault = device.page_fault
    if fault is not None:
        best, middle = (fault.page_bytes / seconds for seconds in (fault.best, fault.median))
        rows.append(
            ["memory, first touch", "1", rate(best, "B/s"), rate(middle, "B/s"),
             share(1 - middle / best)]
        )  # fmt: skip
    say.table(
        f"{device.name} ({device.device})",
        ["", "threads", "best", "middle sample", "below the best"],
        rows,
    )
    for sentence in _sentences(device):
        say.note(sentence)


def _sentences(device: DeviceDetails) -> list[str]:
    from tunesmith.evidence.figures import number

    found = [
        f"In {dtype}, work with fewer than {number(flops)} FLOPs for each byte that it reads is "
        "held back by memory, not by arithmetic."
        for dtype, flops in device.balances.items()
    ]
    fault = device.page_fault
    if fault is not None:
        write = max((b.bytes.best for b in device.bandwidths if b.kind == "write"), default=0.0)
        times = write * fault.best / fault.page_bytes
        found.append(
            f"Touching a page of {fault.page_bytes} bytes for the first time takes "
            f"{fault.best * 1e6:.2f} µs: fresh memory comes {number(times)} times as slowly as "
            "memory that is written again."
        )
    if device.file is not None:
        found.append(f"Kept for training in {device.file}.")
    return found


def _threads(threads: int | None) -> str:
    return "" if threads is None else str(threads)
