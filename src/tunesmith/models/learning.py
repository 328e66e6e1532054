"""Marks which parameters learn. What learns is float32, whatever the rest is stored in."""

from __future__ import annotations

import torch
from torch import nn


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


def widen(parameter: nn.Parameter) -> None:
    """Store `parameter` in at least float32."""
    parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
