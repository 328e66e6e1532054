"""The recipe: everything that a user asks for, typed, bounded, with every default visible.

    YAML or mapping ──load.py──> Recipe ──to_yaml──> YAML with every default, which loads as equal

Every field carries a description, a unit and bounds: the command line's help, the JSON schema and
the reference are made of them. Sections stand in modules of their own; what a member takes is found
through the registry (`choice.py`). A recipe knows no file system (`load.py` does) and no torch;
whether a technique suits a task is seen where the model is known.
"""

from __future__ import annotations

from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, Field, model_validator

from tunesmith.recipes.choice import (
    DEFAULT_TECHNIQUE,
    ObjectiveChoice,
    OperationChoice,
    RetainerChoice,
    TaskChoice,
    TechniqueChoice,
)
from tunesmith.recipes.data import DataOptions
from tunesmith.recipes.document import RecipeDumper
from tunesmith.recipes.frozen_base import BaseOptions
from tunesmith.recipes.members import with_data_of_members
from tunesmith.recipes.section import STRICT, conflict, empty_section
from tunesmith.recipes.training import TrainingOptions


class EvaluationOptions(BaseModel):
    """What is measured before and after, and how sure the verdict must be."""

    model_config = STRICT

    metric: str | None = Field(
        default=None,
        min_length=1,
        description="metric that decides the verdict; null: the task's own; of several tasks it "
        "only chooses among validations: see task.members.NAME.metric",
    )
    confidence: float = Field(
        default=0.95, ge=0.5, lt=1, description="confidence of the verdict's interval"
    )
    resamples: int = Field(
        default=10_000, ge=100, le=1_000_000, description="resamples of the paired bootstrap"
    )
    generate: int = Field(
        default=32,
        ge=0,
        description="test records that are measured by real generation, where the task does so",
    )
    probe: bool = Field(
        default=True,
        description="measure perplexity on a fixed general text, to show what was forgotten",
    )
    tokens_per_batch: int = Field(
        default=4096, ge=1, description="tokens computed at once when measuring"
    )


class Recipe(BaseModel):
    """A fine-tuning job. Only `model`, `task` and `data.train` must be given."""

    model_config = STRICT

    model: str = Field(
        min_length=1,
        description="model to start from: a folder, a .gguf file, a name of the catalogue "
        "(`tunesmith models`) or a hub id",
    )
    task: TaskChoice = Field(description="what is learnt: a task's name, or its name and options")
    surgery: list[OperationChoice] = Field(
        default=[],
        description="changes of the model before it learns, in this order; the model itself stays "
        "as it is",
    )
    base: Annotated[BaseOptions, BeforeValidator(empty_section)] = Field(
        default_factory=BaseOptions, description="how the base's frozen weights are kept"
    )
    data: DataOptions = Field(description="the records")
    technique: TechniqueChoice = Field(
        default_factory=lambda: TechniqueChoice.model_validate(DEFAULT_TECHNIQUE),
        description="who may learn: a technique's name, or its name and options",
    )
    objective: ObjectiveChoice | None = Field(
        default=None, description="which number goes down; null: the task's own"
    )
    retain: list[RetainerChoice] = Field(
        default=[], description="what is done against forgetting, of which several go together"
    )
    training: Annotated[TrainingOptions, BeforeValidator(empty_section)] = Field(
        default_factory=TrainingOptions, description="the loop"
    )
    evaluation: Annotated[EvaluationOptions, BeforeValidator(empty_section)] = Field(
        default_factory=EvaluationOptions, description="the measurement"
    )

    @model_validator(mode="before")
    @classmethod
    def _members_name_their_data(cls, value: Any) -> Any:
        return with_data_of_members(value)

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        if self.data.streaming and self.training.max_steps is None:
            raise conflict(
                "training.max_steps",
                "A stream has no end that is known, so the number of steps must say how long to"
                " train",
                "Set training.max_steps.",
            )
        if self.training.optimizer_in_backward and self.technique.name not in ("full", "galore"):
            raise conflict(
                "training.optimizer_in_backward",
                "optimizer_in_backward is for technique full: the gradients of"
                f" {self.technique.name} are small, and nothing would be saved",
                "Leave it out, or set technique to full.",
            )
        return self

    def to_yaml(self) -> str:
        """Return the recipe as YAML with every default; loading that gives an equal recipe."""
        return yaml.dump(
            self.model_dump(), Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=88
        )
