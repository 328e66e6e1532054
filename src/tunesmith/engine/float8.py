"""Linear layers that learn, multiplied in 8 bits: for GPUs that do so at twice bfloat16's rate.

    learn_in_float8(model, parameters, bfloat16)     the layers' `forward` while they learn

Only the products of training are rounded so: what learns and its gradients stay float32, all else
is computed as with bfloat16, and so is everything that is measured or generated. The modules keep
their parameters and names. Layers whose sizes the devices cannot multiply stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import RecipeError
from tunesmith.kernels.float8 import MULTIPLE, float8_linear
from tunesmith.models.model import Model


def learn_in_float8(
    model: Model, learns: Collection[nn.Parameter], dtype: torch.dtype
) -> dict[str, str]:
    """Let the body's linear layers that learn be multiplied in 8 bits; return how many, in words.

    Args:
        learns: what the optimiser moves.
        dtype: of what the layers give.

    Raises:
        RecipeError: there are none. Adapters do not count: they are small, and what is large beside
            them does not learn.
    """
    ids = {id(parameter) for parameter in learns}
    layers = [
        module
        for module in model.body.modules()
        if type(module) is nn.Linear
        and id(module.weight) in ids
        and not any(size % MULTIPLE for size in module.weight.shape)
        and model.peft is None
    ]
    if not layers:
        raise RecipeError(
            "No linear layer of the model's own learns here, so nothing would be multiplied in 8"
            " bits.",
            where="training.precision",
            fix="Leave it out, or choose the technique full or layers.",
        )
    for layer in layers:
        vars(layer)["forward"] = _forward(layer, dtype)
    return {"learnt layers": f"{len(layers)} in float8"}


def _forward(layer: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    stock: Callable[[Tensor], Tensor] = layer.forward

    def forward(x: Tensor) -> Tensor:
        if not (layer.training and torch.is_grad_enabled() and x.numel()):
            return stock(x)
        return float8_linear(x, layer.weight, layer.bias, dtype)

    return forward
