"""Replay: old records are mixed in among the new ones, so that both go down together.

    epoch = training records + share of old ones (given, or written by the model before training)

The plainest guard against forgetting, and often the strongest (Robins, 1995; of a model's own
texts: Shin et al., 2017, arXiv:1705.08690; Sun et al., 2020, arXiv:1909.03329). Old records are
drawn once, by the seed, and seen once an epoch. It costs the time of the records that are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tunesmith.registry import RETAINERS
from tunesmith.retain.base import OldTexts, Retainer, Scene, refuses_to_write

if TYPE_CHECKING:
    from tunesmith.data.batch import Encoded


@RETAINERS.register("replay")
class Replay(Retainer):
    """Old records among the new: given ones, or texts that the model wrote itself."""

    class Options(OldTexts):
        """Which old records, and how many."""

        share: float = Field(
            default=0.2,
            gt=0,
            lt=1,
            description="share of an epoch's records that are old; all that there are, where they "
            "are fewer",
        )

    _chosen: int = 0
    _available: int = 0

    def refuses(self, scene: Scene) -> str | None:
        """A model that writes nothing needs given records."""
        if scene.objective.whole_step:
            return (
                f"the objective {scene.objective.name!r} compares the records of a step with each "
                "other, and old ones would be compared with new ones"
            )
        return refuses_to_write(self.options, scene)

    def choose(self, new: int, old: Sequence[Encoded], seed: int) -> list[Encoded]:
        """Draw the old examples of an epoch, without repetition.

        Args:
            new: how many training examples an epoch has.
        """
        import torch

        share: float = self.options.share
        self._available = len(old)
        wanted = max(1, round(new * share / (1 - share)))
        generator = torch.Generator().manual_seed(seed)
        order: Any = torch.randperm(len(old), generator=generator).tolist()
        chosen = [old[place] for place in sorted(order[:wanted])]
        self._chosen = len(chosen)
        return chosen

    def facts(self) -> dict[str, str]:
        """Say how many old records are mixed in, and where they come from."""
        source = ", ".join(self.options.data or ()) or "the model's own texts"
        return {"Replayed": f"{self._chosen} of {self._available} examples, from {source}"}
