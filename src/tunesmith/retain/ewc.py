"""Elastic weight consolidation (EWC): what mattered for old texts is held, the rest may move.

    strength / 2 * sum of F_i (w_i - w0_i)^2         F: how much the old texts depend on each value

F is the diagonal of the Fisher information at the weights before training, the mean over old texts
of the squared gradient of their log-likelihood, per learnt token (Kirkpatrick et al., 2017,
arXiv:1612.00796). So with strength 1 the penalty is, to second order, what the old texts lose, in
nats a token. Texts that the model wrote itself give the Fisher information proper; given texts the
empirical one. It takes the memory of what learns twice (first values and F, in float32), a forward
and backward pass of each old text before training, and next to no time in it.

Of adapters, F is that of their own values where they begin: the first factors of LoRA begin without
any influence and are held by the second ones alone. A new head is not held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.registry import RETAINERS
from tunesmith.retain.base import OldTexts, Retainer, Scene, refuses_to_write
from tunesmith.retain.l2_sp import new_heads, pull, refuses_in_backward

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.data.batch import Encoded
    from tunesmith.engine.anchor import Anchor


@RETAINERS.register("ewc")
class Ewc(Retainer):
    """What mattered for old texts is held, by the Fisher information of each value."""

    class Options(OldTexts):
        """How hard, and by which texts."""

        strength: float = Field(
            default=1.0,
            gt=0,
            le=1e9,
            description="strength of the pull; at 1 a nat that old texts lose a token weighs as "
            "much as one of the loss",
        )

    _anchor: Anchor | None = None
    _fisher: dict[str, Tensor] | None = None
    _texts = 0

    def refuses(self, scene: Scene) -> str | None:
        """Old texts must say something of the weights that learn."""
        if new_heads(scene):
            return (
                "with a new head nothing is known of what the model said before; choose l2_sp, "
                "replay with `data`, or interpolate"
            )
        if not scene.begins_as_base:
            return "before training this technique does not answer as its base does"
        return refuses_in_backward(scene) or refuses_to_write(self.options, scene)

    def begin(self, scene: Scene) -> None:
        """Copy what learns."""
        from tunesmith.engine.anchor import Anchor

        self._anchor = Anchor(scene.engine.optimizer.parameters)

    def examine(self, scene: Scene, old: Sequence[Encoded]) -> dict[str, Tensor]:
        """Return the diagonal Fisher information of what learns."""
        import torch

        from tunesmith.data.batch import collate
        from tunesmith.models.seeded import seeded
        from tunesmith.objectives.masked_likelihood import MaskedLikelihood
        from tunesmith.objectives.token_likelihood import TokenLikelihood

        objective = MaskedLikelihood() if scene.fills_in else TokenLikelihood()
        parameters = scene.engine.optimizer.parameters
        sums = {
            name: torch.zeros(p.shape, dtype=torch.float32, device=p.device)
            for name, p in parameters.items()
        }
        tokens = 0.0
        with seeded(scene.seed):
            for example in old:
                batch = collate([example])
                counts = objective.counts(batch)
                tokens += sum(counts.values())
                scene.engine.forward_backward(batch, objective, dict.fromkeys(counts, 1.0))
                for name, parameter in parameters.items():
                    if parameter.grad is not None:
                        sums[name] += parameter.grad.float().square()
                        parameter.grad = None
        return {name: total / tokens for name, total in sums.items()} | {
            "texts": torch.tensor(len(old))
        }

    def load(self, found: dict[str, Tensor]) -> None:
        """Take the Fisher information."""
        self._texts = int(found["texts"])
        assert self._anchor is not None
        self._fisher = {name: found[name] for name in self._anchor.parameters}

    def penalise(self) -> dict[str, float]:
        """Add the gradients; return the penalty."""
        assert self._anchor is not None
        assert self._fisher is not None
        total = 0.0
        for name, parameter in self._anchor.parameters.items():
            start, weights = self._anchor.values[name], self._fisher[name]
            total += pull(parameter, start, self.options.strength, weights.to(parameter.device))
        return {"ewc": total}

    @property
    def nbytes(self) -> int:
        """The first values of what learns, and the information of each in float32."""
        if self._anchor is None:
            return 0
        values = self._anchor.values.values()
        return self._anchor.nbytes + sum(4 * tensor.numel() for tensor in values)

    def facts(self) -> dict[str, str]:
        """Say by which texts."""
        source = ", ".join(self.options.data or ()) or "the model's own"
        return {"Held by Fisher information": f"of {self._texts} texts ({source})"}
