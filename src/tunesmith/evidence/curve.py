"""Reads `retain/curve.json`: the points between the weights before and after that a run tried."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from tunesmith.errors import InputError


class CurvePoint(BaseModel):
    """One point of the way from the old weights to the new ones."""

    share: float
    validation: float
    general: float | None = None


class Curve(BaseModel):
    """`retain/curve.json`: the points that were tried, the first before training."""

    metric: str
    higher_is_better: bool = True
    unit: str = ""
    points: list[CurvePoint]
    chosen: float
    keep: float = 1.0

    @property
    def gained(self) -> bool:
        """Whether any point is better on validation than the weights before training."""
        sign = 1 if self.higher_is_better else -1
        before, *tried = (sign * point.validation for point in self.points)
        return max(tried, default=before) > before

    @property
    def taken(self) -> CurvePoint:
        """The point that the run ends with."""
        return next(point for point in self.points if point.share == self.chosen)


def read_curve(run_dir: Path) -> Curve | None:
    """Read the curve of a run; None where no point was looked for.

    Raises:
        InputError: the file is damaged.
    """
    path = run_dir / "retain" / "curve.json"
    if not path.exists():
        return None
    try:
        return Curve.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise InputError(
            f"It is damaged: {error.errors()[0]['msg']}.",
            where=str(path),
            fix="Restore it from a copy, or train anew under another --name.",
        ) from error
