"""AdamW with decoupled weight decay (Loshchilov & Hutter 2019), over named parameter groups.

It knows which parameters share a rate factor and a decay, clips by the global norm, and can be
stopped and taken up again bit for bit. What learns is float32 here, whatever the model computes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.techniques.base import ParameterGroup


@dataclass(frozen=True)
class AdamWOptions:
    """Settings of AdamW: decay per step is learning rate × `weight_decay`; `max_grad_norm` is the
    global L2 norm that gradients are clipped to."""

    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0


class Optimizer:
    """AdamW over a technique's parameter groups.

    Args:
        groups: what learns; a group may scale the learning rate and set its own decay.
        options: settings of AdamW.
    """

    def __init__(self, groups: Sequence[ParameterGroup], options: AdamWOptions) -> None:
        groups = [group for group in groups if group.parameters] or [ParameterGroup({})]
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for group in groups for name, parameter in group.parameters.items()
        }
        self._scales = [group.learning_rate_scale for group in groups]
        self._max_norm = options.max_grad_norm
        self._adamw = torch.optim.AdamW(
            [
                {
                    "params": list(group.parameters.values()),
                    "weight_decay": options.weight_decay
                    if group.weight_decay is None
                    else group.weight_decay,
                }
                for group in groups
            ],
            lr=0.0,
            betas=(options.beta1, options.beta2),
            eps=options.epsilon,
            fused=True,
        )

    def step(self, learning_rate: float) -> float:
        """Clip, update and clear; return the global gradient norm before clipping."""
        parameters = list(self.parameters.values())
        norm = nn.utils.clip_grad_norm_(parameters, self._max_norm)
        if torch.isfinite(norm):
            for group, scale in zip(self._adamw.param_groups, self._scales, strict=True):
                group["lr"] = learning_rate * scale
            self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        return float(norm)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moments and step counts, as `<parameter>/<name>`."""
        state: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            for key, value in self._adamw.state.get(parameter, {}).items():
                state[f"{name}/{key}"] = value
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned."""
        for name, parameter in self.parameters.items():
            entry: dict[str, Any] = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"{name}/{key}" in state:
                    entry[key] = state[f"{name}/{key}"].clone()
            if entry:
                self._adamw.state[parameter] = entry
