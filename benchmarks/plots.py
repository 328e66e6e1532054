"""The plots of the README, as SVG from matplotlib: bars for sides and rungs, lines for curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Report = Mapping[str, Any]
_OURS, _OTHERS, _GIB = "#1f6f8b", "#b8b8b8", 2**30


def plot(kind: str, report: Report, path: Path) -> str | None:
    """Draw a report into `path`, and return its address from the README; None where none is due."""
    drawers = {"peers": _peers, "ladder": _ladder, "scaling": _scaling}
    if kind not in drawers:
        return None
    import matplotlib

    matplotlib.use("svg")
    # The same picture for the same figures: no date, and ids that do not change.
    matplotlib.rcParams.update({"svg.hashsalt": path.stem, "font.size": 9})
    figure = drawers[kind](report)
    if figure is None:
        return None
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")
    return f"{path.parent.name}/{path.name}"


def _figure(columns: int, height: float) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * columns, height))
    axes = figure.subplots(1, columns, squeeze=False)[0]
    figure.subplots_adjust(wspace=0.25)
    return figure, axes


def _bars(rows: Sequence[Report], wanted: Sequence[tuple[str, str, float]]) -> Any:
    """Horizontal bars, a panel a figure; a mark for the range of the rounds."""
    shown = [(key, label, scale) for key, label, scale in wanted if any(key in r for r in rows)]
    if not shown:
        return None
    figure, axes = _figure(len(shown), 0.6 + 0.3 * len(rows))
    titles = [row["title"] for row in rows]
    for axis, (key, label, scale) in zip(axes, shown, strict=True):
        for place, row in enumerate(rows):
            value = row.get(key)
            if value is None:
                axis.text(0, place, f" {row['status']}", va="center", fontsize=7)
                continue
            ours = place == 0 if "rung" not in row else place == len(rows) - 1
            axis.barh(place, value["median"] / scale, color=_OURS if ours else _OTHERS)
            ends = (value["least"] / scale, value["most"] / scale)
            axis.plot(ends, (place, place), color="black", linewidth=1)
        axis.set_yticks(range(len(rows)), titles if axis is axes[0] else [""] * len(rows))
        axis.invert_yaxis()
        axis.set_title(label)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _peers(report: Report) -> Any:
    head = report["work"]["kind"] == "head"
    speed = [] if head else [("tokens_per_second", "tokens/s", 1.0)]
    memory = ("peak_memory_bytes", "peak memory (GiB)", _GIB)
    gpu = ("gpu_peak_bytes", "GPU memory (GiB)", _GIB)
    figures = [*speed, ("seconds_to_finished", "seconds to finished", 1.0), memory, gpu]
    return _bars(report["summary"], figures)


def _ladder(report: Report) -> Any:
    memory = ("peak_memory_bytes", "peak memory (GiB)", _GIB)
    return _bars(report["summary"], [("tokens_per_second", "tokens/s", 1.0), memory])


def _scaling(report: Report) -> Any:
    keys = {"length": "length", "batch": "documents", "model": "model", "cores": "threads"}
    curves = {name: points for name, points in report["curves"].items() if points}
    if not curves:
        return None
    figure, axes = _figure(len(curves), 2.8)
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        done = [p for p in points if p.get("tokens_per_second")]
        places = range(len(done))
        axis.plot(places, [p["tokens_per_second"] for p in done], color=_OURS, marker="o")
        memory = axis.twinx()
        held = [p["peak_memory_bytes"] / _GIB for p in done]
        memory.plot(places, held, color=_OTHERS, marker="s", linestyle="--")
        labels = [str(p[keys[name]]).removeprefix("random:") for p in done]
        axis.set_xticks(places, labels, rotation=30, ha="right")
        axis.set_title(name)
        axis.set_ylim(bottom=0)
        memory.set_ylim(bottom=0)
        if axis is axes[0]:
            axis.set_ylabel("tokens/s (line)")
        if axis is axes[-1]:
            memory.set_ylabel("peak memory, GiB (dashed)")
    return figure
