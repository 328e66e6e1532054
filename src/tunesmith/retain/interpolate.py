"""Weight interpolation after training: a point on the way from the old weights to the new ones.

    w(share) = w0 + share * (w1 - w0)       share 0: as before, share 1: as trained

(WiSE-FT: Wortsman et al., 2022, arXiv:2109.01903.) Between the two, a model often keeps nearly all
that it learnt and nearly all that it knew. Some shares are tried after training: each is measured
on the validation records and, where the model writes text, on the general text that shows what was
forgotten. Chosen is the smallest share that keeps so much of the validation's gain; the test and
the general text have no part in the choice. Of low-rank adapters the second factor is scaled, which
is the straight line in the weights; a new head stays as it was learnt. It takes the memory of what
learns once more, and one measurement of the validation records for each share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import RETAINERS
from tunesmith.retain.base import Retainer, Scene
from tunesmith.retain.l2_sp import new_heads

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.engine.anchor import Anchor
    from tunesmith.engine.engine import Engine
    from tunesmith.techniques.base import Technique


@RETAINERS.register("interpolate")
class Interpolate(Retainer):
    """A point between the weights before and after, chosen on validation records."""

    needs_validation = True

    class Options(BaseModel):
        """Which points, and how much of the gain must be kept."""

        model_config = ConfigDict(extra="forbid")

        shares: list[Annotated[float, Field(gt=0, le=1)]] = Field(
            default=[0.2, 0.4, 0.6, 0.8, 1.0],
            min_length=1,
            description="shares of the way from the old to the new weights that are tried",
        )
        keep: float = Field(
            default=0.9,
            gt=0,
            le=1,
            description="share of the best gain on validation that must be kept; of the points "
            "that keep it, the one nearest to the old weights is taken. 1: the best point",
        )

    _anchor: Anchor | None = None

    def refuses(self, scene: Scene) -> str | None:
        """The way must begin at the base."""
        if not scene.begins_as_base:
            return "before training this technique does not answer as its base does"
        return None

    def begin(self, scene: Scene) -> None:
        """Copy what learns, a new head apart."""
        from tunesmith.engine.anchor import Anchor

        heads = new_heads(scene)
        learnt = scene.engine.optimizer.parameters
        self._anchor = Anchor(
            {name: p for name, p in learnt.items() if not (heads and name.startswith(heads))}
        )

    def learnt(self) -> dict[str, Tensor]:
        """Return a copy of what was learnt, the other end of the way."""
        assert self._anchor is not None
        return {name: p.detach().clone() for name, p in self._anchor.parameters.items()}

    def put(
        self, engine: Engine, technique: Technique, learnt: dict[str, Tensor], share: float
    ) -> None:
        """Give the model the weights at a share of the way."""
        assert self._anchor is not None
        state: dict[str, Any] = {
            name: tensor for name, tensor in engine.state_dict().items() if "weights/" in name[:8]
        }
        for name, start in self._anchor.values.items():
            state[f"weights/{name}"] = technique.between(name, start, learnt[name], share)
        engine.load_state_dict(state)

    def choose(self, points: Sequence[Point], higher_is_better: bool) -> float:
        """Return the share that is taken, from the validation figures alone.

        Args:
            points: the first is that of share 0, before training.
        """
        before, *tried = points
        sign = 1 if higher_is_better else -1
        gains = {point.share: sign * (point.validation - before.validation) for point in tried}
        best = max(gains.values())
        if best <= 0:
            return max(gains, key=lambda share: (gains[share], share))
        return min(share for share, gain in gains.items() if gain >= self.options.keep * best)

    @property
    def nbytes(self) -> int:
        """The first values of what learns."""
        return self._anchor.nbytes if self._anchor else 0


class Point(BaseModel):
    """One point of the way: its share, the validation metric, and perplexity on general text."""

    share: float
    validation: float
    general: float | None = None
