"""How a recipe is trained: its section `training`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from tunesmith.recipes.section import STRICT, conflict


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


class TrainingOptions(BaseModel):
    """How the loop runs: length, learning rate, batches, precision, checkpoints."""

    model_config = STRICT

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
    precision: Literal["auto", "float32", "bfloat16", "float8"] = Field(
        default="auto",
        description="number format of the computation; auto: bfloat16 where the processor is fast "
        "at it; float8: bfloat16, but linear layers that learn are multiplied in 8 bits, on GPUs "
        "that do so (compute capability 8.9). What learns is kept in float32",
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
            raise conflict(
                "max_steps",
                "Both max_steps and epochs are set; only one can say how long to train",
                "Remove one of the two, or set it to null.",
            )
        if self.epochs is None and self.max_steps is None:
            raise conflict(
                "epochs",
                "Both epochs and max_steps are null; one must say how long to train",
                "Set epochs, such as 1.",
            )
        if self.optimizer_in_backward and not self.clip_per_tensor:
            raise conflict(
                "optimizer_in_backward",
                "optimizer_in_backward moves a weight before the other gradients are known, so it"
                " cannot clip by the norm of all",
                "Set training.clip_per_tensor to true.",
            )
        if self.stochastic_rounding and self.precision != "bfloat16":
            raise conflict(
                "stochastic_rounding",
                f"stochastic_rounding keeps weights in bfloat16, and precision is {self.precision}",
                "Set training.precision to bfloat16.",
            )
        for name in ("patience", "keep_best"):
            if getattr(self, name) and self.validate_every is None:
                raise conflict(
                    name,
                    f"{name} needs validations, and validate_every is not set",
                    "Set training.validate_every to a number of steps.",
                )
        return self
