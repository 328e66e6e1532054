"""The recipe: everything that a user asks for, typed, bounded, with every default visible.

    YAML or mapping ──load.py──> Recipe ──to_yaml──> YAML with every default, which loads as equal

Every field carries a description, a unit and bounds: the command line's help, the JSON schema and
the reference are made of them. What a task, a technique or an objective takes belongs to that
member's own option model; `Choice` finds it through the registry. A recipe knows no file system
(`load.py` does) and no torch; whether a technique suits a task is seen where the model is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError, to_json

from tunesmith.errors import suggest
from tunesmith.recipes.document import RecipeDumper
from tunesmith.recipes.frozen_base import BaseOptions
from tunesmith.registry import OBJECTIVES, OPERATIONS, RETAINERS, TASKS, TECHNIQUES, Registry

_CONFIG = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

DEFAULT_TECHNIQUE = "lora"


class Choice(BaseModel):
    """One member of a registry and its own options.

    In a recipe it is written as a name (`lora`) or with options (`{name: lora, rank: 16}`).
    """

    model_config = _CONFIG
    registry: ClassVar[Registry[Any]]

    name: str = Field(description="which one")
    options: SerializeAsAny[BaseModel] = Field(description="its own options")

    @model_validator(mode="before")
    @classmethod
    def _look_up(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        kind = cls.registry.kind
        given = {"name": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping):
            raise PydanticCustomError(
                "choice_type",
                "must be the name of a {kind}, or its name and options",
                {"kind": kind},
            )
        if isinstance(given.get("options"), BaseModel):
            return dict(given)
        if "name" not in given:
            raise PydanticCustomError("missing", "Field required", {"key": "name"})
        name = given["name"]
        if name not in cls.registry.names():
            raise PydanticCustomError(
                "unknown_member",
                "There is no {kind} called {name}",
                {
                    "kind": kind,
                    "name": repr(name),
                    "key": None if isinstance(value, str) else "name",
                    "fix": suggest(str(name), cls.registry.names()),
                },
            )
        options = {key: item for key, item in given.items() if key != "name"}
        # Through JSON, so that a YAML list may fill a tuple while `"3"` still fills no integer.
        model: type[BaseModel] = cls.registry.get(name).Options
        return {"name": name, "options": model.model_validate_json(_as_json(options), strict=True)}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, **self.options.model_dump(mode="json")}


def _as_json(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="constants", fallback=str)


class TaskChoice(Choice):
    """What is learnt."""

    registry = TASKS


class TechniqueChoice(Choice):
    """Who may learn: which parameters, and how."""

    registry = TECHNIQUES


class ObjectiveChoice(Choice):
    """Which number goes down."""

    registry = OBJECTIVES


class OperationChoice(Choice):
    """A change of the model before it learns."""

    registry = OPERATIONS


class RetainerChoice(Choice):
    """A way to keep what the model knew."""

    registry = RETAINERS


def _empty_section(value: Any) -> Any:
    return {} if value is None else value  # `training:` with every line below it commented out


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


_NEITHER_SHARE_NOR_FILE = PydanticCustomError(
    "share_or_file", "Input should be a file or a share above 0 and below 1"
)


def _share_or_file(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise PydanticCustomError(
            "share_or_file", "Input should be a file or a share between 0 and 1"
        )
    if isinstance(value, int | float) and not 0 < value < 1:
        raise PydanticCustomError(
            "share_or_file", "Input should be a file or a share between 0 and 1 (both excluded)"
        )
    return value


Share = Annotated[float, Field(gt=0, lt=1)]


class DataOptions(BaseModel):
    """Which records are learnt from, and which are kept apart to judge the result."""

    model_config = _CONFIG

    train: Annotated[list[str], BeforeValidator(_one_or_many)] = Field(
        min_length=1,
        description="file, folder or hub data set (hub:owner/name[:split]) to learn from, or a "
        "list of them; relative paths start at the recipe's folder",
    )
    test: Annotated[str | Share, BeforeValidator(_share_or_file)] = Field(
        default=0.2,
        description="file of test records, or the share of train to hold out; read for the final "
        "verdict only",
    )
    validation: Annotated[str | Share | None, BeforeValidator(_share_or_file)] = Field(
        default=None,
        description="file of validation records, or the share of train to hold out; null: a tenth "
        "where training.validate_every needs it",
    )
    format: Literal[
        "auto",
        "alpaca",
        "chat",
        "sharegpt",
        "prompt_completion",
        "source_target",
        "translation",
        "document_summary",
        "text_summary",
        "dialogue_summary",
        "article_highlights",
        "text",
        "text_label",
        "pair_label",
        "inference",
        "text_labels",
        "text_score",
        "pair_score",
        "query_documents",
        "tokens_tags",
        "tokens_iob1",
        "text_entities",
        "squad",
        "anchor_positive",
        "scored_pair",
    ] = Field(default="auto", description="record format; auto recognises it and says which")
    group: str | None = Field(
        default=None,
        min_length=1,
        description="column whose equal values stay on one side of every split",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="columns to rename, as name that the format expects: name in the file",
    )
    stratify: bool = Field(
        default=True, description="keep the balance of classes in splits by share"
    )
    unlearnable: Literal["error", "drop"] = Field(
        default="error",
        description="a record of which nothing would be learnt (no answer, an empty text, no "
        "answer left once it is cut to fit): error refuses the data, drop leaves the record out "
        "and names it",
    )
    streaming: bool = Field(
        default=False,
        description="read train window by window while it is learnt from, so that it need not fit "
        "memory or disk; needs training.max_steps and a file for test",
    )
    window: int = Field(
        default=4096,
        ge=1,
        description="records of a stream that are read, checked and shuffled at once; two windows "
        "are in memory",
    )

    @model_validator(mode="after")
    def _a_stream_is_not_parted(self) -> DataOptions:
        shares = {name: getattr(self, name) for name in ("test", "validation")}
        wrong = [name for name, value in shares.items() if isinstance(value, float | int)]
        if self.streaming and (wrong or self.group is not None):
            name = wrong[0] if wrong else "group"
            what = f"{name} is a share of it" if wrong else "records cannot be grouped"
            raise _conflict(
                name,
                f"With streaming, train is never seen whole, so {what}",
                f"Name a file under data.{name}." if wrong else "Leave data.group out.",
            )
        return self


class TrainingOptions(BaseModel):
    """How the loop runs: length, learning rate, batches, precision, checkpoints."""

    model_config = _CONFIG

    epochs: float | None = Field(
        default=1.0,
        gt=0,
        le=10_000,
        description="passes over the training records; null where max_steps says how long",
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="optimiser steps, instead of epochs"
    )
    learning_rate: float = Field(
        default=2e-4, gt=0, le=10, description="highest learning rate, reached after the warm-up"
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="cosine", description="how the learning rate falls after the warm-up"
    )
    warmup: float = Field(
        default=0.03, ge=0, le=1, description="share of the steps in which the rate rises from 0"
    )
    batch_size: int = Field(default=8, ge=1, description="records per optimiser step")
    tokens_per_batch: int = Field(
        default=2048,
        ge=1,
        description="tokens computed at once; a step of more is accumulated over several passes, "
        "with the same result",
    )
    packing: bool = Field(
        default=True, description="lay records end to end without padding, where the model can"
    )
    weight_decay: float = Field(
        default=0.0, ge=0, le=1, description="decoupled weight decay of AdamW, on matrices only"
    )
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="largest norm of the gradient; a larger one is scaled down"
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's decay of the mean")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's decay of the variance")
    epsilon: float = Field(default=1e-8, gt=0, le=1, description="AdamW's epsilon")
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        default="adamw",
        description="AdamW; adamw_8bit keeps its moments in 8 bits (a quarter of the memory, "
        "needs bitsandbytes)",
    )
    clip_per_tensor: bool = Field(
        default=False,
        description="clip each tensor's gradient by its own norm, not all by the norm of all",
    )
    optimizer_in_backward: bool = Field(
        default=False,
        description="move each weight as soon as its gradient is known and drop the gradient: "
        "saves the memory of all gradients. Only for technique full with clip_per_tensor, where "
        "every step is one pass (see tokens_per_batch)",
    )
    stochastic_rounding: bool = Field(
        default=False,
        description="keep the matrices that learn in bfloat16, without a float32 copy, and round "
        "each update up or down at random; needs precision: bfloat16",
    )
    memory_gb: Annotated[
        Literal["auto"] | Annotated[float, Field(gt=0, le=100_000)], BeforeValidator(_number)
    ] = Field(
        default="auto",
        description="memory that training may take, in GB (10^9 bytes); auto: what is free on the "
        "device. As few layers as fit are computed a second time in the backward pass instead of "
        "being kept",
    )
    cache_gb: Annotated[
        Literal["auto"] | Annotated[float, Field(ge=0, le=100_000)], BeforeValidator(_number)
    ] = Field(
        default="auto",
        description="disk that the output of frozen layers and encoded records may take, of all "
        "runs together, in GB (10^9 bytes); auto: half of what is free. They are computed once and "
        "read ever after, where that is faster; 0: frozen layers are computed in every pass, "
        "records encoded in every run",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="number format of the computation; auto: bfloat16 where the processor is fast "
        "at it. What learns is kept in float32",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="seed of splits, order, dropout and initial values"
    )
    validate_every: int | None = Field(
        default=None, ge=1, description="steps between validations; null: no validation"
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="stop after so many validations without a better one; needs validate_every",
    )
    keep_best: bool = Field(
        default=False,
        description="end with the weights of the best validation, not the last; needs "
        "validate_every",
    )
    checkpoint_every: int | None = Field(
        default=None,
        ge=1,
        description="steps between checkpoints; null: at the end, and when interrupted",
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="how many checkpoints are kept")

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_the_default_of_epochs(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("max_steps") is not None:
            return {"epochs": None, **value}
        return value

    @model_validator(mode="after")
    def _no_conflicts(self) -> TrainingOptions:
        if self.epochs is not None and self.max_steps is not None:
            raise _conflict(
                "max_steps",
                "Both max_steps and epochs are set; only one can say how long to train",
                "Remove one of the two, or set it to null.",
            )
        if self.epochs is None and self.max_steps is None:
            raise _conflict(
                "epochs",
                "Both epochs and max_steps are null; one must say how long to train",
                "Set epochs, such as 1.",
            )
        if self.optimizer_in_backward and not self.clip_per_tensor:
            raise _conflict(
                "optimizer_in_backward",
                "optimizer_in_backward moves a weight before the other gradients are known, so it"
                " cannot clip by the norm of all",
                "Set training.clip_per_tensor to true.",
            )
        if self.stochastic_rounding and self.precision != "bfloat16":
            raise _conflict(
                "stochastic_rounding",
                f"stochastic_rounding keeps weights in bfloat16, and precision is {self.precision}",
                "Set training.precision to bfloat16.",
            )
        for name in ("patience", "keep_best"):
            if getattr(self, name) and self.validate_every is None:
                raise _conflict(
                    name,
                    f"{name} needs validations, and validate_every is not set",
                    "Set training.validate_every to a number of steps.",
                )
        return self


def _conflict(key: str, message: str, fix: str) -> PydanticCustomError:
    """Say what is wrong with `key` in a way that keeps its place (see `explain.py`)."""
    return PydanticCustomError("conflict", message, {"key": key, "fix": fix})


class EvaluationOptions(BaseModel):
    """What is measured before and after, and how sure the verdict must be."""

    model_config = _CONFIG

    metric: str | None = Field(
        default=None,
        min_length=1,
        description="metric that decides the verdict; null: the task's own",
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

    model_config = _CONFIG

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
    base: Annotated[BaseOptions, BeforeValidator(_empty_section)] = Field(
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
    training: Annotated[TrainingOptions, BeforeValidator(_empty_section)] = Field(
        default_factory=TrainingOptions, description="the loop"
    )
    evaluation: Annotated[EvaluationOptions, BeforeValidator(_empty_section)] = Field(
        default_factory=EvaluationOptions, description="the measurement"
    )

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        if self.data.streaming and self.training.max_steps is None:
            raise _conflict(
                "training.max_steps",
                "A stream has no end that is known, so the number of steps must say how long to"
                " train",
                "Set training.max_steps.",
            )
        if self.training.optimizer_in_backward and self.technique.name not in ("full", "galore"):
            raise _conflict(
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
