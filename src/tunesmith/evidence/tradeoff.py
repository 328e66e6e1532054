"""The curve of the new task against old knowledge, where a run looked for a point between.

In: the points that a run with the retainer `interpolate` tried. Out: a drawing and a sentence for
the report. It chooses nothing: the run did, on validation records.
"""

from __future__ import annotations

from markupsafe import Markup

from tunesmith.evidence import figures, plots
from tunesmith.evidence.curve import Curve


def drawing(curve: Curve) -> Markup:
    """Draw the points: what was learnt upwards, what was forgotten to the right.

    Where general text was not measured, the share of the way stands in its place.
    """
    general = all(point.general is not None for point in curve.points)
    across = "perplexity on general text" if general else "share of the way"
    points = [
        (point.general if general and point.general is not None else point.share, point.validation)
        for point in curve.points
    ]
    label = figures.label(curve.metric)
    return Markup(
        plots.way(
            "tradeoff",
            f"{label} on validation records against {across}",
            points,
            [f"{point.share:.0%}" for point in curve.points],
            chosen=curve.points.index(curve.taken),
            axes=(across, label),
        )
    )


def sentence(curve: Curve) -> str:
    """Say which point was taken, and why."""
    taken = curve.taken
    metric = f"{figures.label(curve.metric)} on the validation records"
    why = (
        f"the point nearest to the old ones that keeps {curve.keep:.0%} of the gain in {metric}"
        if curve.gained
        else f"no point is better than the old ones in {metric}, and this one is the least worse"
    )
    said = (
        f"The model stands {taken.share:.0%} of the way from the old weights to the new ones: "
        f"{why} ({figures.number(taken.validation)})"
    )
    before, last = curve.points[0], curve.points[-1]
    if taken.general is None or before.general is None or last.general is None:
        return f"{said}. The test records had no part in the choice."
    return (
        f"{said}. Perplexity on general text is {figures.number(taken.general)} there, "
        f"{figures.number(before.general)} before training and {figures.number(last.general)} at "
        f"{last.share:.0%}. Neither the test records nor the general text had a part in the choice."
    )
