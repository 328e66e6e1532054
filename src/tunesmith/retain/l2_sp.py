"""L2-SP: what learns is pulled back to where it started, not to zero as weight decay does.

    strength / 2 * |w - w0|^2  +  new / 2 * |v|^2       v: a head that is new, and has no start

(Li, Grandvalet & Davoine, 2018, arXiv:1802.01483.) Of a low-rank adapter the distance is that of
the weights that it changes, |s (B A - B0 A0)|^2, computed from the small factors alone; of any
other adapter, of its own values. It takes the memory of what learns once more, and next to no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import RETAINERS
from tunesmith.retain.base import Retainer, Scene

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tunesmith.engine.anchor import Anchor

_ABOVE, _BELOW = ".lora_A.", ".lora_B."


@RETAINERS.register("l2_sp")
class L2Sp(Retainer):
    """What learns is pulled back to its first values."""

    class Options(BaseModel):
        """How hard."""

        model_config = ConfigDict(extra="forbid")

        strength: float = Field(
            default=0.1,
            gt=0,
            le=1e6,
            description="strength of the pull of the weights to their first values (the paper's "
            "alpha)",
        )
        new: float = Field(
            default=0.0,
            ge=0,
            le=1e6,
            description="strength of the pull of a new head to zero (the paper's beta)",
        )

    _anchor: Anchor | None = None

    def refuses(self, scene: Scene) -> str | None:
        """A penalty is added when a step's gradients are complete."""
        return refuses_in_backward(scene)

    def begin(self, scene: Scene) -> None:
        """Copy what learns; pairs of low-rank factors are put together."""
        from tunesmith.engine.anchor import Anchor

        module = scene.engine.model.module
        learnt = scene.engine.optimizer.parameters
        heads = new_heads(scene)
        self._heads = {n: p for n, p in learnt.items() if n.startswith(heads)} if heads else {}
        rest = {n: p for n, p in learnt.items() if n not in self._heads}
        self._anchor = Anchor(rest)
        self._pairs = {name: _scale(module, name) for name in rest if _is_pair(name, rest)}

    def penalise(self) -> dict[str, float]:
        """Add the gradients; return the penalty."""
        assert self._anchor is not None
        parameters, values = self._anchor.parameters, self._anchor.values
        total = 0.0
        for above, scale in self._pairs.items():
            below = above.replace(_ABOVE, _BELOW)
            total += _pull_product(parameters, values, (above, below), scale, self.options.strength)
        paired = {*self._pairs, *(name.replace(_ABOVE, _BELOW) for name in self._pairs)}
        for name, parameter in parameters.items():
            if name not in paired:
                total += pull(parameter, values[name], self.options.strength)
        if self.options.new:
            for parameter in self._heads.values():
                total += pull(parameter, None, self.options.new)
        return {"l2_sp": total}

    @property
    def nbytes(self) -> int:
        """The first values of what learns."""
        return self._anchor.nbytes if self._anchor else 0

    def facts(self) -> dict[str, str]:
        """Say what is measured."""
        what = "the weights that the adapters change" if self._pairs else "what learns"
        return {"Pulled back": f"{what}, to their first values ({self.nbytes / 1e6:.3g} MB)"}


def refuses_in_backward(scene: Scene) -> str | None:
    """Return why a penalty on weights cannot go with updates within the backward pass."""
    if scene.in_backward:
        return "it adds to a step's gradients, and training.optimizer_in_backward keeps none"
    return None


def new_heads(scene: Scene) -> tuple[str, ...]:
    """Return the beginnings of the names of what is new in the model, and so has no old value."""
    anatomy = scene.engine.model.anatomy
    if scene.writes:
        return ()
    return tuple(f"{name}." for name in anatomy.task_modules)


def pull(
    parameter: nn.Parameter, start: Tensor | None, strength: float, importance: Tensor | None = None
) -> float:
    """Add the gradient of strength / 2 * sum of importance * (w - start)^2; return that sum.

    Args:
        start: None for zero.
        importance: of each value; None for 1.
    """
    distance = parameter.detach() if start is None else parameter.detach() - start
    weighed = distance if importance is None else distance * importance
    add_gradient(parameter, weighed, strength)
    return 0.5 * strength * float((weighed.float() * distance.float()).sum())


def add_gradient(parameter: nn.Parameter, gradient: Tensor, strength: float) -> None:
    """Add strength * gradient to what a parameter has."""
    if parameter.grad is None:
        parameter.grad = (gradient * strength).to(parameter.dtype)
    else:
        parameter.grad.add_(gradient.to(parameter.grad.dtype), alpha=strength)


def _pull_product(
    parameters: Mapping[str, nn.Parameter],
    values: Mapping[str, Tensor],
    names: tuple[str, str],
    scale: float,
    strength: float,
) -> float:
    """The same for the product of two factors, of which neither is formed whole.

    With U = [B, -B0] and V = [A; A0], the change of the weight is s U V, and its squared length is
    s^2 times the sum of (U'U) * (V V').
    """
    import torch

    (above, below), square = names, strength * scale**2
    a_RD, b_OR = (parameters[name].detach() for name in (above, below))
    a0_RD, b0_OR = values[above], values[below]
    u_OQ, v_QD = torch.cat([b_OR, -b0_OR], 1), torch.cat([a_RD, a0_RD])
    inner_QQ, outer_QQ = u_OQ.T @ u_OQ, v_QD @ v_QD.T
    rank = a_RD.shape[0]
    add_gradient(parameters[below], (u_OQ @ outer_QQ)[:, :rank], square)
    add_gradient(parameters[above], (inner_QQ @ v_QD)[:rank], square)
    return 0.5 * square * float((inner_QQ * outer_QQ).sum())


def _is_pair(name: str, learnt: Mapping[str, nn.Parameter]) -> bool:
    """Whether this is the first factor of an ordinary low-rank adapter whose second learns too.

    AdaLoRA has a third factor, and those of experts lie one beside another in one tensor.
    """
    if _ABOVE not in name or name.replace(_ABOVE, ".lora_E.") in learnt:
        return False
    return ".experts." not in name and name.replace(_ABOVE, _BELOW) in learnt


def _scale(module: nn.Module, name: str) -> float:
    """What the adapter of a factor is multiplied by."""
    place, _, rest = name.partition(_ABOVE)
    layer: Any = module.get_submodule(place)
    return float(layer.scaling[rest.partition(".")[0]])
