"""Who may learn: the contract of a technique.

A technique gets a loaded model, marks which parameters learn (adding some where it must), and
knows how to save the result in the format that its own ecosystem loads. It knows no data, no
recipe and no loop. Options are pydantic models, importable without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tunesmith.models.depths import Unfreezing
    from tunesmith.models.layer_scores import GradientStatistics
    from tunesmith.models.model import Model


@dataclass(frozen=True)
class Projection:
    """How gradients are projected.

    Attributes:
        rank: directions r.
        every: updates after which the directions are taken anew.
        scale: what the update is multiplied by.
    """

    rank: int
    every: int
    scale: float

    def suits(self, parameter: Tensor) -> bool:
        """Whether this tensor is a matrix that the projection makes smaller."""
        return parameter.ndim == 2 and min(parameter.shape) > self.rank

    def elements(self, parameter: Tensor) -> int:
        """Numbers that are kept of such a matrix: the directions and two moments."""
        small, large = sorted(parameter.shape)
        return self.rank * (small + 2 * large)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning-rate factor and a decay (`None`: the recipe's).

    Attributes:
        projection: keep the moments of matrices in a few directions only.
        at_once: share of these parameters that learn at the same time, as memory is foretold.
    """

    parameters: dict[str, nn.Parameter]
    learning_rate_scale: float = 1.0
    weight_decay: float | None = None
    projection: Projection | None = None
    at_once: float = 1.0


class Pace:
    """What changes as the steps go by: who learns now, or how large an adapter is.

    Steps count from 0. Nothing changes, unless a technique says otherwise.
    """

    def begin(self, model: Model, steps: int) -> None:
        """Take note of how many steps there are, before the first one or one that is resumed."""

    def before_step(self, step: int) -> None:
        """Change who learns in this step; a function of the step alone."""

    def before_update(self, step: int) -> dict[str, float]:
        """Add to the gradients of the step; return what that adds to the loss, by term."""
        return {}

    def after_update(self, step: int) -> None:
        """Change what learns, after it was moved."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what a resumed run needs beside the weights."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` returned."""


class Technique(Pace, ABC):
    """A way to let a model learn; `name` is set by the registry.

    Args:
        options: as the recipe gives them; its own defaults where there are none.
        needed: the head of the task that it serves, a name of `models.heads.HEADS`; for options
            whose `auto` is another for each.
    """

    name: ClassVar[str]
    alone: ClassVar[str | None] = None
    """Why it serves one task at a time; None where several heads may learn on one body."""

    class Options(BaseModel):
        """No options."""

        model_config = ConfigDict(extra="forbid")

    def __init__(self, options: BaseModel | None = None, needed: str = "") -> None:
        self.options: Any = options or self.Options()
        self.needed = needed

    @property
    def begins_as_base(self) -> bool:
        """Whether a prepared model answers as the base does, but for rounding."""
        return True

    @classmethod
    def refuses(cls, head: str, kind: str) -> str | None:
        """Return why this technique cannot serve such a task and model, or None where it can.

        Args:
            head: the head that the task needs, a name of `models.heads.HEADS`.
            kind: the kind of model (`decoder`, `encoder`, `encoder-decoder`).
        """
        return None

    def changes_base(self) -> str | None:
        """Return how it changes or saves the base's own weights, or None where it leaves them be.

        Only a base that is left be may be stored quantised, or lie on disk.
        """
        return "its result is a whole model, whose weights would have to be stored anew"

    def unsuited(self, head: str) -> str | None:
        """Return why these options do not go with the head that a task needs, or None."""
        return None

    @property
    def records_to_study(self) -> int:
        """Training records whose gradients `study` wants to see before `prepare`; 0: none."""
        return 0

    def study(self, statistics: GradientStatistics) -> None:
        """Look at the gradients of training records, at the weights as they are."""

    def state(self) -> dict[str, Any]:
        """Return what was found out about model and data, as JSON, so that it stays the same."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned, before `prepare`."""

    def facts(self) -> dict[str, str]:
        """Return what the report says of this technique beside its name, by heading."""
        return {}

    def head(self, needed: str) -> str:
        """Return the head to load the model with, given the one that the task needs."""
        return needed

    @property
    def solver(self) -> Fits | None:
        """What solves for the head at once; None where it learns by gradient steps."""
        return None

    @abstractmethod
    def prepare(self, model: Model) -> None:
        """Mark what learns (`requires_grad`), in place, adding modules where the method needs them.

        Random initialisation draws from the global generator: call it inside `seeded`.

        Raises:
            RecipeError: an option names something that this model does not have.
        """

    def parameter_groups(self, model: Model) -> list[ParameterGroup]:
        """Return what learns, grouped; no decay on biases, norms and other vectors."""
        decayed: dict[str, nn.Parameter] = {}
        kept: dict[str, nn.Parameter] = {}
        for name, parameter in model.module.named_parameters():
            if parameter.requires_grad:
                (decayed if parameter.ndim >= 2 else kept)[name] = parameter
        return [ParameterGroup(decayed), ParameterGroup(kept, weight_decay=0.0)]

    def between(self, name: str, start: Tensor, learnt: Tensor, share: float) -> Tensor:
        """Return the value of a parameter at a share of the way from `start` to `learnt`."""
        return start.lerp(learnt, share)

    @abstractmethod
    def save(self, model: Model, folder: Path) -> None:
        """Write the result to `folder` in the format that its own ecosystem loads."""


class WholeModel(Technique):
    """A change of the model's own weights; the result is a whole model for transformers."""

    def save(self, model: Model, folder: Path) -> None:
        """Write the whole model."""
        from tunesmith.models.saving import save_full

        save_full(model, folder)


class InTurn(WholeModel):
    """The same, with the option `gradual`: layers may begin to learn one after another."""

    _unfreezing: Unfreezing | None = None

    def begin(self, model: Model, steps: int) -> None:
        """Lay out when which layer begins to learn."""
        from tunesmith.models.depths import Unfreezing

        share = self.options.gradual
        self._unfreezing = Unfreezing(model, share, steps) if share else None

    def before_step(self, step: int) -> None:
        """Let those layers learn whose turn has come."""
        if self._unfreezing is not None:
            self._unfreezing.at(step)


ALL_LINEAR: Literal["all-linear"] = "all-linear"

Targets = Literal["all-linear"] | Annotated[list[str], Field(min_length=1)]
"""Linear maps of the layers: all of them, or names such as `q_proj` or `mlp.up_proj`."""


class PeftTechnique(Technique):
    """An adapter that PEFT makes, run on PEFT's own modules and saved as PEFT reads it.

    A member says how PEFT is to be configured; the base stays as it is, and a classification head
    learns whole beside the adapter.
    """

    in_sentence_transformers: ClassVar[bool] = True
    """Whether sentence-transformers, which reads vectors, loads the adapter."""

    @classmethod
    def refuses(cls, head: str, kind: str) -> str | None:
        """Adapters need a head that learns by steps."""
        if head == "features":
            return "adapters learn by steps, but these features stay as they are"
        if head == "embedding" and not cls.in_sentence_transformers:
            return "sentence-transformers cannot load its adapters; choose lora, layers or full"
        return None

    def changes_base(self) -> str | None:
        """Adapters learn beside the base, however that is stored."""
        return None

    @abstractmethod
    def config(self, model: Model) -> Any:
        """Return PEFT's configuration of the adapter.

        Raises:
            RecipeError: the options do not suit this model.
        """

    def prepare(self, model: Model) -> None:
        """Add the adapter in place; `model.peft` becomes the wrapper that saves and switches it.

        Raises:
            RecipeError: PEFT has no such adapter for this model.
        """
        from tunesmith.models.adapters import attach

        attach(model, self.config(model))

    def save(self, model: Model, folder: Path) -> None:
        """Write the adapter, as PEFT reads it."""
        from tunesmith.models.saving import save_adapter

        save_adapter(model, folder)


class Fits(Protocol):
    """What solves for a technique's head at once, instead of by gradient steps."""

    def fit(
        self,
        model: Model,
        features_BD: Tensor,
        labels_B: Tensor,
        validation: tuple[Tensor, Tensor] | None = None,
        *,
        seed: int = 0,
    ) -> dict[str, float]:
        """Fit the head in place; return `loss` and what was chosen."""
        ...
