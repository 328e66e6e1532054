"""The point between the weights before and after that a run ends with: `retain/curve.json`.

    Prepared, learnt ──find_point──> points of the way, measured on validation and on general text
                                     ──> the model with the weights of the chosen one

The choice is made on validation records alone. A resumed run takes it from the file.
"""

from __future__ import annotations

from typing import Any

from tunesmith.console import Console
from tunesmith.evaluation.probe import probe_refusal, probe_scores
from tunesmith.evaluation.significance import figures
from tunesmith.retain.interpolate import Interpolate, Point
from tunesmith.runs.folder import RunFolder
from tunesmith.runs.learn import deciding, validation_figures
from tunesmith.runs.prepare import Prepared
from tunesmith.tasks.language_modeling import LanguageModeling


def find_point(folder: RunFolder, prepared: Prepared, console: Console) -> None:
    """Take the best point between the weights before and after, where the recipe asks for it.

    The weights are then those of that point; `retain/curve.json` has all that were tried.
    """
    member = next((m for m in prepared.retention.members if isinstance(m, Interpolate)), None)
    if member is None:
        return
    learnt = member.learnt()
    if not folder.curve.exists():
        folder.write_json(folder.curve, _curve(member, prepared, learnt, console))
    chosen = float(folder.read_stored(folder.curve)["chosen"])
    member.put(prepared.engine, prepared.technique, learnt, chosen)
    console.note(f"Taken: {chosen:.0%} of the way from the old weights to the new ones.")


def _curve(
    member: Interpolate, prepared: Prepared, learnt: dict[str, Any], console: Console
) -> dict[str, Any]:
    name, metrics = deciding(prepared)
    shares = sorted({0.0, *member.options.shares})
    points: list[Point] = []
    assert prepared.validation is not None
    with console.progress("points between before and after", len(shares)) as bar:
        for share in shares:
            member.put(prepared.engine, prepared.technique, learnt, share)
            found = validation_figures(prepared, prepared.validation, metrics, console)
            points.append(Point(share=share, validation=found[name], general=_general(prepared)))
            bar.advance()
    higher = metrics[name].higher_is_better
    return {
        "metric": name,
        "higher_is_better": higher,
        "unit": metrics[name].unit,
        "points": [point.model_dump() for point in points],
        "chosen": member.choose(points, higher),
        "keep": member.options.keep,
    }


def _general(prepared: Prepared) -> float | None:
    """Perplexity on the general text, or None where it is not measured."""
    evaluation = prepared.recipe.evaluation
    if not evaluation.probe or probe_refusal(prepared.engine):
        return None
    scores = probe_scores(
        prepared.engine, Console(quiet=True), tokens_per_batch=evaluation.tokens_per_batch
    )
    metric = LanguageModeling().metrics["perplexity"]
    return figures(scores or [], {"perplexity": metric})["perplexity"]
