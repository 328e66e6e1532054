"""Against forgetting: the contract of a retainer.

    the model before the first step ──begin──> what of it is held on to
    each micro-batch   further()     a term of the loss, of the same forward pass        kl
    each step          penalise()    gradients of a penalty on the weights               l2_sp, ewc
    each epoch         old records are mixed in                                          replay
    after training     `runs/` looks for the best point between before and after         interpolate

A retainer is one file. It knows an engine, and old texts as examples; no task, no recipe, no file.
Options are pydantic models, importable without torch.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.objectives.base import FurtherTerm, Objective


@dataclass(frozen=True)
class Scene:
    """What a retainer meets.

    Attributes:
        engine: with the weights as they are before the first step.
        objective: what goes down.
        begins_as_base: whether the prepared model answers as its base does; where it does not, the
            base is found by switching the adapter off.
        in_backward: whether weights are moved within the backward pass.
        tokens: most tokens of a micro-batch.
        seed: of whatever is drawn.
    """

    engine: Engine
    objective: Objective
    begins_as_base: bool = True
    in_backward: bool = False
    tokens: int = 2048
    seed: int = 0

    @property
    def writes(self) -> bool:
        """Whether the model writes text."""
        return self.engine.model.head == "causal_lm"

    @property
    def fills_in(self) -> bool:
        """Whether the model says which token stood where one was hidden."""
        return self.engine.model.head == "masked_lm"

    @property
    def names_tokens(self) -> bool:
        """Whether the model says which token comes next, or which one was hidden."""
        return self.fills_in or self.engine.model.head in ("causal_lm", "seq2seq_lm")


class Retainer(ABC):
    """A way to keep what a model knew; `name` is set by the registry."""

    name: ClassVar[str]
    needs_validation: ClassVar[bool] = False
    """Whether something is chosen on validation records."""

    class Options(BaseModel):
        """No options."""

        model_config = ConfigDict(extra="forbid")

    def __init__(self, options: BaseModel | None = None) -> None:
        self.options: Any = options or self.Options()

    def refuses(self, scene: Scene) -> str | None:
        """Return why it cannot serve here, or None where it can."""
        return None

    def begin(self, scene: Scene) -> None:  # noqa: B027  (some hold on to nothing)
        """Hold on to what is needed of the model as it is before the first step."""

    def examine(self, scene: Scene, old: Sequence[Encoded]) -> dict[str, Tensor]:
        """Find out from old texts what must not change; return it, so that it can be kept."""
        return {}

    def load(self, found: dict[str, Tensor]) -> None:  # noqa: B027  (some examine nothing)
        """Take what `examine` returned, now or in an earlier part of the run."""

    def further(self) -> FurtherTerm | None:
        """Return the term that is added to the loss of each micro-batch, if any."""
        return None

    def penalise(self) -> dict[str, float]:
        """Add the gradient of a penalty to those of the step; return what it adds to the loss."""
        return {}

    @property
    def nbytes(self) -> int:
        """Bytes that are held while training, beside what training itself needs."""
        return 0

    def facts(self) -> dict[str, str]:
        """Return what the report says of it, by heading."""
        return {}


class OldTexts(BaseModel):
    """Where old texts come from: files, or the model itself."""

    model_config = ConfigDict(extra="forbid")

    data: list[str] | None = Field(
        default=None,
        min_length=1,
        description="files, folders or hub data sets of what the model should still know; relative "
        "paths start at the recipe's folder. null: texts that the model writes itself before "
        "training",
    )
    read_as: Literal["task", "text"] = Field(
        default="task",
        description="what the records of `data` are: of the recipe's task, or plain texts whose "
        "every token counts (for models that write)",
    )
    generated: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="how many texts the model writes, drawn from nothing but their beginning (100 "
        "where `data` is not given)",
    )
    length: int = Field(
        default=64, ge=4, le=8192, description="most tokens of a text that the model writes"
    )

    @property
    def written(self) -> int:
        """How many texts the model writes; 0 where files are given."""
        return 0 if self.data else self.generated or 100

    @model_validator(mode="after")
    def _one_source(self) -> OldTexts:
        if self.data and self.generated:
            raise ValueError("Give `data` or `generated`, not both")
        return self


def refuses_to_write(options: OldTexts, scene: Scene) -> str | None:
    """Return why the model cannot write its old texts, or None where it can or need not."""
    if options.written and not scene.writes:
        return "this model writes no text that it could learn from again; give `data`"
    if options.read_as == "text" and not scene.writes:
        return "this model does not learn from plain text; leave out `read_as`"
    return None
