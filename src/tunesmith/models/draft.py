"""A model on the table: its configuration, its weights by name, its tokenizer, all open to change.

    module ──draft_of──> Draft ──operations──> Draft ──module()──> the altered module

Operations change the configuration and the tensors, never a module: the altered module is built by
transformers' own class from the configuration and takes the tensors, each of which must fit. So
whatever comes out is something that transformers loads, or an error. It works without data (the
meta device) too, to show what would come of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tunesmith.errors import RecipeError, first_line
from tunesmith.models.anatomy import Anatomy, study
from tunesmith.models.anatomy.blueprint import builder_of
from tunesmith.models.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Draft:
    """What operations change.

    Attributes:
        config: transformers' configuration, a copy.
        weights: every tensor by its name in the module's state dict; tied ones stand twice.
        tokenizer: None where the model has none.
        anatomy: what is where, as the weights are now (see `restudy`).
    """

    config: Any
    weights: dict[str, Tensor]
    tokenizer: Any
    anatomy: Anatomy

    @property
    def text_config(self) -> Any:
        """The part of the configuration that speaks of the text model."""
        return self.config.get_text_config()

    def skeleton(self) -> nn.Module:
        """Return the modules that the configuration describes now, without data.

        Raises:
            RecipeError: transformers takes no such configuration.
        """
        try:
            with quiet(), torch.device("meta"):
                config = type(self.config).from_dict(self.config.to_dict())
                built: nn.Module = builder_of(config)(config, dtype=self.dtype)
        except Exception as error:  # configurations complain with whatever they like
            raise RecipeError(
                f"The family {self.anatomy.family} cannot be changed so: {first_line(error)}",
                where="surgery",
            ) from error
        return built.eval()

    @property
    def dtype(self) -> torch.dtype:
        """The format of most of the weights."""
        return next(t.dtype for t in self.weights.values() if t.is_floating_point())

    def restudy(self) -> None:
        """Take the anatomy anew, after the configuration has changed."""
        self.anatomy = study(self.skeleton())

    def module(self) -> nn.Module:
        """Return the altered module with its weights.

        Raises:
            RecipeError: the tensors do not fit the configuration: no stock class has this shape.
        """
        built: Any = self.skeleton()
        try:
            built.load_state_dict(self.weights, strict=True, assign=True)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise RecipeError(
                f"The family {self.anatomy.family} has no class of this shape: {lines[-1]}",
                where="surgery",
                fix="Leave the operation out.",
            ) from error
        built.tie_weights()
        module: nn.Module = built
        return module

    def set_option(self, name: str, value: Any) -> None:
        """Set a field of the configuration, under whatever name the family has for it."""
        setattr(self.text_config, name, value)


def draft_of(module: nn.Module, tokenizer: Any) -> Draft:
    """Return a draft of `module`, a stock transformers model; nothing of it is changed."""
    config: Any = module.config
    copy = type(config).from_dict(config.to_dict())
    return Draft(copy, dict(module.state_dict()), tokenizer, study(module))


def reorder_layers(draft: Draft, order: Sequence[int]) -> dict[int, list[str]]:
    """Give the model the layers `order`, by their old numbers; one may come several times.

    Returns:
        For each place in the new stack, the names of its tensors.

    Raises:
        RecipeError: the layers stand in two stacks.
    """
    anatomy = draft.anatomy
    if anatomy.encoder is not None:
        raise RecipeError(
            f"The layers of this {anatomy.family} model stand in two stacks, whose sizes its"
            " configuration states apart: they cannot be left out or doubled by one number.",
            where="surgery",
            fix="Leave the operation out.",
        )
    holder = anatomy.layers[0].name.rpartition(".")[0]
    prefix = f"{holder}."
    of_layer: dict[int, dict[str, Tensor]] = {}
    kept: dict[str, Tensor] = {}
    for name, tensor in draft.weights.items():
        if name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            of_layer.setdefault(int(number), {})[rest] = tensor
        else:
            kept[name] = tensor
    names: dict[int, list[str]] = {}
    seen: set[int] = set()
    for place, old in enumerate(order):
        for rest, tensor in of_layer[old].items():
            kept[f"{prefix}{place}.{rest}"] = tensor.clone() if old in seen else tensor
            names.setdefault(place, []).append(f"{prefix}{place}.{rest}")
        seen.add(old)
    draft.weights = kept
    reorder_lists(draft.text_config, len(anatomy.layers), order)
    draft.set_option("num_hidden_layers", len(order))
    draft.restudy()
    return names


def reorder_lists(config: Any, depth: int, order: Sequence[int]) -> None:
    """Let lists with an entry for each of `depth` layers (such as `layer_types`) follow them."""
    for name, value in list(config.to_dict().items()):
        if isinstance(value, list) and len(value) == depth and "layer" in name:
            setattr(config, name, [value[old] for old in order])
