"""AdamW with decoupled weight decay (Loshchilov & Hutter 2019), over named parameter groups.

It knows which parameters share a rate factor and a decay, clips by the norm of all gradients or of
each, and can be stopped and taken up again bit for bit. What learns is float32 here, whatever the
model computes in, unless it is rounded at random; `updates.py` moves single tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tunesmith.engine.updates import AdamWOptions, Slot, check_installed, update
from tunesmith.techniques.base import ParameterGroup

__all__ = ["AdamWOptions", "Optimizer"]


class Optimizer:
    """AdamW over a technique's parameter groups.

    Args:
        groups: what learns; a group may scale the learning rate and set its own decay.
        options: settings of AdamW.

    Raises:
        ValueError: `in_backward` without `clip_per_tensor`: the norm of all gradients is not known
            while they are being made.
        RecipeError: moments in 8 bits need a package that is not installed.
    """

    def __init__(self, groups: Sequence[ParameterGroup], options: AdamWOptions) -> None:
        if options.in_backward and not options.clip_per_tensor:
            raise ValueError("an update within the backward pass can only clip each tensor")
        check_installed(options.kind)
        self.options = options
        self._slots: list[Slot] = []
        for group in groups:
            own = group.weight_decay
            decay = options.weight_decay if own is None else own
            for name, parameter in group.parameters.items():
                place = len(self._slots)
                slot = Slot(name, place, parameter, group.learning_rate_scale, decay)
                slot.projection, slot.at_once = group.projection, group.at_once
                self._slots.append(slot)
        self.parameters: dict[str, nn.Parameter] = {s.name: s.parameter for s in self._slots}
        if options.stochastic_rounding:
            _narrow(self.parameters.values())
        self._rate: float | None = None
        self._norms: dict[str, Tensor] = {}
        if options.in_backward:
            for slot in self._slots:
                slot.parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    self._hook(slot)
                )

    @property
    def state_bytes(self) -> int:
        """Bytes that the states of all that learns at the same time will take."""
        return int(sum(slot.state_bytes(self.options.kind) for slot in self._slots))

    @property
    def at_once(self) -> dict[str, float]:
        """Of each parameter the share of its like that learns at the same time."""
        return {slot.name: slot.at_once for slot in self._slots}

    def begin(self, learning_rate: float) -> None:
        """Tell the rate of the step whose backward pass comes next; `in_backward` needs it."""
        self._rate = learning_rate
        self._norms.clear()

    def step(self, learning_rate: float) -> float:
        """Clip, update and clear; return the global gradient norm before clipping.

        Raises:
            RuntimeError: `in_backward`, and nothing was moved in a backward pass since the last
                step: `begin` was not called.
        """
        for slot in self._slots:
            if not slot.parameter.requires_grad:  # it learns no more: its moments are let go
                slot.state = {}
        if self.options.in_backward:
            return self._end()
        learnt = [slot for slot in self._slots if slot.parameter.grad is not None]
        if self.options.clip_per_tensor:
            norm = _total([self._clip([slot]) for slot in learnt])
        else:
            norm = self._clip(learnt)
        if torch.isfinite(norm):
            update(learnt, self.options, learning_rate)
        for slot in learnt:
            slot.parameter.grad = None
        return float(norm)

    def state_dict(self) -> dict[str, Tensor]:
        """Return moments, their scales and step counts, as `<parameter>/<name>`."""
        return {f"{slot.name}/{key}": t for slot in self._slots for key, t in slot.state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        """Take back what `state_dict` returned.

        Args:
            prefix: what the names begin with there.

        Raises:
            KeyError: of a tensor something is there, but not all that is needed; of a `Stored`,
                InputError.
        """
        moved = {key.rpartition("/")[0] for key in state}
        for slot in self._slots:
            key = f"{prefix}{slot.name}"
            names = slot.keeps(self.options.kind) if key in moved else []
            device = slot.parameter.device
            slot.state = {name: state[f"{key}/{name}"].to(device, copy=True) for name in names}

    def _clip(self, slots: Sequence[Slot]) -> Tensor:
        parameters = [slot.parameter for slot in slots]
        return nn.utils.clip_grad_norm_(parameters, self.options.max_grad_norm)

    def _hook(self, slot: Slot) -> Callable[[Tensor], None]:
        def move(parameter: Tensor) -> None:
            if self._rate is None:
                return  # a gradient that no step was begun for, such as a trial's
            if slot.name in self._norms:
                raise RuntimeError("an update within the backward pass allows one pass a step")
            self._norms[slot.name] = norm = self._clip([slot])
            if torch.isfinite(norm):
                update([slot], self.options, self._rate)
            parameter.grad = None

        return move

    def _end(self) -> float:
        if self._rate is None:
            raise RuntimeError("tell the learning rate before the backward pass: `begin_step`")
        norm = _total(list(self._norms.values()))
        self._rate = None
        return float(norm)


def _total(norms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(norms)).norm() if norms else torch.zeros(())


def _narrow(parameters: Iterable[nn.Parameter]) -> None:
    """Store matrices in bfloat16; vectors cost nothing and stay as they are."""
    for parameter in parameters:
        if parameter.ndim >= 2:
            parameter.data = parameter.data.to(torch.bfloat16)
