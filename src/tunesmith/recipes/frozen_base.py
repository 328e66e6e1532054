"""How the base is kept while something beside it learns: the recipe's section `base`.

It belongs to techniques that leave the base's own weights as they are (adapters): what the base is
stored in, and where, is then free. Whether a technique does is seen where it is prepared.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, model_validator

from tunesmith.recipes.section import STRICT


class BaseOptions(BaseModel):
    """How the frozen weights of the base are stored."""

    model_config = STRICT

    quantize: Literal["int8", "nf4"] | None = Field(
        default=None,
        description="store the linear maps of the layers in 8 bits (int8, LLM.int8) or 4 (nf4, "
        "QLoRA), for techniques that add adapters; needs bitsandbytes. null: as "
        "training.precision says",
    )
    double_quantize: bool = Field(
        default=True, description="store the scales of nf4 in 8 bits too: 0.4 bits a weight less"
    )
    stream: bool = Field(
        default=False,
        description="keep the layers on disk and read each while the one before it computes, for "
        "a base that is larger than memory; for techniques that add adapters, on a processor",
    )

    @model_validator(mode="after")
    def _one_place(self) -> BaseOptions:
        if self.stream and self.quantize is not None:
            raise ValueError(
                "`quantize` makes the base small enough for memory, `stream` leaves it on disk as "
                "it is: choose one of the two"
            )
        return self
