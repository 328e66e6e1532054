"""Draws the curves of a run as inline SVG that takes its colours from the page.

In: numbers. Out: an `<svg>` element as text: words stay words (they can be read aloud and found),
colours are CSS variables and `currentColor` (one drawing serves light and dark), identifiers are
prefixed with the plot's name (several plots share a page). The page defines `--series`,
`--series-2`, `--soft`, `--better` and `--worse`. Knows no files and no metrics.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tunesmith.imports import uncollected

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

# Colours that stand for a colour of the page until the drawing is done.
_PAGE_COLOURS = {
    "#010203": "currentColor",
    "#010204": "var(--series)",
    "#010205": "var(--series-2)",
    "#010206": "var(--soft)",
    "#010207": "var(--better)",
    "#010208": "var(--worse)",
}
_TEXT, _SERIES, _SECOND, _SOFT, _BETTER, _WORSE = _PAGE_COLOURS

_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _TEXT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _SOFT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "text.color": _TEXT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "legend.frameon": False,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Line:
    """One line of a plot: `raw` values are drawn thin, with their running mean on top."""

    label: str
    points: Points
    raw: bool = False
    marks: bool = False


def curve(
    name: str, title: str, lines: Sequence[Line], *, mark: tuple[float, str] | None = None
) -> str:
    """Draw lines over the steps of training.

    Args:
        name: identifies the drawing in its page.
        title: what is drawn, for those who hear it.
        mark: a step to point at, and what it is.
    """
    with _figure(name, 4.2, 2.5) as (figure, axes):
        for line, colour in zip(lines, (_SERIES, _SECOND), strict=False):
            _draw(axes, line, colour)
        if mark is not None:
            axes.axvline(mark[0], color=_TEXT, linewidth=0.8, linestyle=(0, (3, 3)))
            axes.annotate(
                mark[1],
                (mark[0], 0),
                xycoords=("data", "axes fraction"),
                xytext=(-4, 3),
                textcoords="offset points",
                fontsize=8,
                ha="right",
            )
        axes.set_xlabel("step")
        axes.margins(x=0.02)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(lines) > 1:
            axes.legend(loc="upper right", handlelength=1.4)
        return _svg(figure, name, title)


def interval(
    name: str, title: str, difference: float, bounds: tuple[float, float], *, better_is_up: bool
) -> str:
    """Draw a difference with its interval against zero."""
    low, high = bounds
    outside = not low <= 0 <= high
    colour = _SERIES if not outside else _BETTER if (low > 0) == better_is_up else _WORSE
    with _figure(name, 4.8, 0.8) as (figure, axes):
        axes.grid(visible=False)
        axes.axvline(0, color=_TEXT, linewidth=1)
        axes.plot([low, high], [0, 0], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot([difference], [0], marker="o", markersize=8, color=colour)
        axes.set_yticks([])
        axes.xaxis.get_major_locator().set_params(nbins=6)
        axes.spines["left"].set_visible(False)
        reach = max(abs(low), abs(high), abs(difference)) or 1.0
        axes.set_xlim(
            min(low, -0.12 * reach) - 0.08 * reach, max(high, 0.12 * reach) + 0.08 * reach
        )
        axes.set_ylim(-1, 1)
        return _svg(figure, name, title)


def changes(name: str, title: str, improvements: Sequence[float]) -> str:
    """Draw how much each record changed, from the worst to the best."""
    ordered = sorted(improvements)
    with _figure(name, 4.8, 1.6) as (figure, axes):
        colours = [_BETTER if value > 0 else _WORSE for value in ordered]
        axes.vlines(
            range(len(ordered)),
            0,
            ordered,
            colors=colours,
            linewidth=max(0.6, min(6.0, 250 / max(1, len(ordered)))),
        )
        axes.axhline(0, color=_TEXT, linewidth=0.8)
        axes.set_xticks([])
        axes.set_xlim(-1, len(ordered))
        axes.spines["bottom"].set_visible(False)
        return _svg(figure, name, title)


def way(
    name: str,
    title: str,
    points: Points,
    labels: Sequence[str],
    *,
    chosen: int,
    axes: tuple[str, str],
) -> str:
    """Draw points in their order, each with its label, and mark the one that was chosen.

    Args:
        axes: what is measured to the right, and upwards.
    """
    across, up = zip(*points, strict=True)
    with _figure(name, 4.8, 2.8) as (figure, drawn):
        drawn.plot(across, up, color=_SERIES, linewidth=1.4, marker="o", markersize=4)
        drawn.plot([across[chosen]], [up[chosen]], color=_BETTER, marker="o", markersize=9)
        rises = (up[-1] - up[0]) * (across[-1] - across[0]) > 0
        side, away = ("right", -6) if rises else ("left", 6)  # where the line does not go
        for point, label in zip(points, labels, strict=True):
            drawn.annotate(
                label, point, xytext=(away, 4), textcoords="offset points", fontsize=8, ha=side
            )
        drawn.set_xlabel(axes[0])
        drawn.set_ylabel(axes[1])
        drawn.margins(x=0.12, y=0.12)
        return _svg(figure, name, title)


def bars(name: str, title: str, edges: Sequence[float], counts: Sequence[int], unit: str) -> str:
    """Draw how many fall between two edges and the next.

    Args:
        edges: one more than `counts`.
        unit: of the edges, below the drawing.
    """
    with _figure(name, 4.2, 2.2) as (figure, axes):
        widths = [end - start for start, end in pairwise(edges)]
        axes.bar(edges[:-1], counts, width=widths, align="edge", color=_SERIES, alpha=0.8)
        axes.set_xlabel(unit)
        axes.margins(x=0.02)
        axes.yaxis.get_major_locator().set_params(integer=True)
        return _svg(figure, name, title)


def _draw(axes: Any, line: Line, colour: str) -> None:
    steps, values = zip(*line.points, strict=True)
    marker = "o" if line.marks or len(line.points) == 1 else None
    if line.raw and len(line.points) > 12:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
        axes.plot(steps, _running_mean(values), color=colour, linewidth=1.8, label=line.label)
    else:
        axes.plot(
            steps,
            values,
            color=colour,
            linewidth=1.8,
            marker=marker,
            markersize=4,
            label=line.label,
        )


def _running_mean(values: Sequence[float]) -> list[float]:
    """Mean of the last tenth of the steps so far, never of later ones."""
    width = max(3, len(values) // 10)
    means = []
    for end in range(1, len(values) + 1):
        part = values[max(0, end - width) : end]
        means.append(sum(part) / len(part))
    return means


@contextmanager
def _figure(name: str, width: float, height: float) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure of so many inches and its axes, under the style of the report."""
    with uncollected():  # here, as most commands draw nothing
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def _svg(figure: Figure, name: str, title: str) -> str:
    buffer = io.StringIO()
    figure.draw_without_rendering()  # ticks follow the layout: lay out again with their labels
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    drawing = text[text.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'\bid="', f'id="{name}-', drawing)
    drawing = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", drawing)
    drawing = re.sub(r"'DejaVu Sans', [^;\"]*|'DejaVu Sans'", "inherit", drawing)
    for stand_in, colour in _PAGE_COLOURS.items():
        drawing = drawing.replace(stand_in, colour)
    head, _, rest = drawing.partition(">")
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' {view_box[0]} role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{rest.strip()}"
    )
