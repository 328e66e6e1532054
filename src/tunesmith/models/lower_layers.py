"""Leaves out the upper layers of a loaded model, so that its features are those of a lower one.

What is behind the layers (a last norm) stays: the features of a decoder's layer are normalised as
its own output layer would have them. The rest is a smaller model of the same class, which every
reader of that class loads. It changes a model in memory; `surgery/` changes files.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from tunesmith.errors import RecipeError
from tunesmith.models.anatomy import study
from tunesmith.models.draft import reorder_lists
from tunesmith.models.model import Model


def keep_lower(model: Model, count: int) -> None:
    """Leave out all layers of `model` but the lowest `count`, in place.

    Raises:
        RecipeError: the layers of this family are not a list from which some can be left out.
    """
    depth = len(model.anatomy.layers)
    if count == depth:
        return
    holder = model.anatomy.layers[0].name.rpartition(".")[0]
    layers: Any = model.module.get_submodule(holder)
    if not isinstance(layers, nn.ModuleList) or len(layers) != depth:
        raise RecipeError(
            f"The layers of a {model.anatomy.family} model cannot be left out one by one.",
            where="technique.layer",
            fix="Leave the option out: the features are then those of the last layer.",
        )
    del layers[count:]
    body: Any = model.body
    config = body.config.get_text_config()
    reorder_lists(config, depth, range(count))
    config.num_hidden_layers = count
    model.anatomy = study(model.module)
