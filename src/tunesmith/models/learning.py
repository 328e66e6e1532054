"""Marks which parameters learn. What learns is float32, whatever the rest is stored in."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn

from tunesmith.errors import RecipeError, suggest
from tunesmith.models.packed_maps import is_wrapped

if TYPE_CHECKING:
    from tunesmith.models.model import Model


def freeze(module: nn.Module) -> None:
    """Let nothing in `module` learn."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def learn(module: nn.Module) -> None:
    """Let everything in `module` learn, in float32 (or wider where it already is).

    A small step is lost when it is added to a bfloat16 weight: its eight bits cannot hold it.
    """
    for parameter in module.parameters():
        widen(parameter)
        parameter.requires_grad_(True)


def learn_all(model: Model, *, embeddings: bool) -> None:
    """Let every parameter learn but those that are computed, and the token embeddings if wanted."""
    freeze(model.module)
    learn(model.module)
    for name in model.fixed:
        model.module.get_parameter(name).requires_grad_(False)
    if not embeddings:
        freeze(model.module.get_submodule(model.anatomy.embeddings))


def widen(parameter: nn.Parameter) -> None:
    """Store `parameter` in at least float32.

    Raises:
        RecipeError: it is stored quantised.
    """
    if not parameter.is_floating_point() or is_wrapped(parameter):
        raise RecipeError(
            "A weight that is stored quantised cannot learn.",
            where="base.quantize",
            fix="Let adapters learn beside it (technique lora), or leave it unquantised.",
        )
    parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def matching(module: nn.Module, patterns: list[str], where: str) -> dict[str, nn.Parameter]:
    """Return the parameters that any of the patterns names.

    A pattern is the name of a parameter or of a module (then all in it), whole or from any dot on;
    `*` stands for any letters, `?` for one.

    Args:
        where: the option that the patterns come from.

    Raises:
        RecipeError: a pattern names nothing; the nearest name is suggested.
    """
    parameters = dict(module.named_parameters())
    found: set[str] = set()
    for pattern in patterns:
        hits = {name for name in parameters if _names(pattern, name)}
        if not hits:
            words = {word for name in parameters for word in name.split(".") if not word.isdigit()}
            raise RecipeError(
                f"No parameter of the model is called {pattern!r}.",
                where=where,
                fix=suggest(pattern, words),
            )
        found |= hits
    return {name: parameter for name, parameter in parameters.items() if name in found}


def _names(pattern: str, parameter: str) -> bool:
    words = parameter.split(".")
    return any(
        fnmatchcase(".".join(words[start:end]), pattern)
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
    )
