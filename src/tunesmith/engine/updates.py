"""How one tensor that learns is moved: AdamW, its moments in 32 or in 8 bits, rounding at random.

    gradient, moments ──> moments', weight'

Each function moves tensors in place and knows no groups, clipping or schedule. Moments in 8 bits
are those of bitsandbytes (block-wise dynamic quantisation, Dettmers et al. 2022): a byte an
element and a scale every 256. It is imported when it is first needed.

A tensor is taken in pieces where it is computed in another format than it is kept in, so that the
copies of a large embedding do not cost what the small format saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from tunesmith.engine.projection import new_projected_state, update_projected
from tunesmith.errors import RecipeError
from tunesmith.techniques.base import Projection

Kind = Literal["adamw", "adamw_8bit"]

BLOCK = 256
"""Elements that share a scale."""

SMALLEST_QUANTISED = 4096
"""Tensors of fewer elements keep moments in float32, as the paper's authors do."""

_PIECE = 1 << 20
"""Elements that are computed at once where a copy is needed; a multiple of `BLOCK`."""


@dataclass(frozen=True)
class AdamWOptions:
    """Settings of AdamW.

    Attributes:
        weight_decay: decay a step is learning rate × this.
        max_grad_norm: the L2 norm that gradients are clipped to.
        kind: `adamw`, or `adamw_8bit` for moments in 8 bits.
        clip_per_tensor: clip each tensor by its own norm instead of all by the norm of all.
        in_backward: move each tensor as soon as its gradient is known, and drop the gradient; needs
            `clip_per_tensor` and one backward pass a step.
        stochastic_rounding: keep matrices in bfloat16 and round each update up or down at random,
            in proportion to the distance (Gupta et al. 2015), so that small ones are not lost.
        seed: from which roundings are drawn, together with the step.
    """

    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    kind: Kind = "adamw"
    clip_per_tensor: bool = False
    in_backward: bool = False
    stochastic_rounding: bool = False
    seed: int = 0


@dataclass
class Slot:
    """A tensor that learns, and what the optimiser keeps of it.

    Attributes:
        place: its number among all that learn.
        rate_scale: factor on the learning rate.
        state: `step`, `exp_avg`, `exp_avg_sq`; in 8 bits also the scales of the latter two. Empty
            before the first update.
        projection: of its gradient, where it is a matrix that is large enough.
        at_once: share of such tensors that learn at the same time.
    """

    name: str
    place: int
    parameter: nn.Parameter
    rate_scale: float
    weight_decay: float
    state: dict[str, Tensor] = field(default_factory=dict)
    projection: Projection | None = None
    at_once: float = 1.0

    @property
    def projected(self) -> Projection | None:
        """How its gradient is projected; None where it is not."""
        suits = self.projection is not None and self.projection.suits(self.parameter)
        return self.projection if suits else None

    def state_bytes(self, kind: Kind) -> float:
        """Bytes that its state takes, of which some may be gone while others learn."""
        if self.projected is not None:
            return self.at_once * 4 * self.projected.elements(self.parameter)
        return self.at_once * state_bytes(self.parameter.numel(), kind)

    def keeps(self, kind: Kind) -> list[str]:
        """Return the names of its state, once there is one."""
        parameter = torch.empty_like(self.parameter, device="meta")
        if self.projected is not None:
            return list(new_projected_state(parameter, self.projected))
        return list(new_state(parameter, kind))

    @property
    def quantised(self) -> bool:
        """Whether its moments are in 8 bits."""
        return "exp_avg_scale" in self.state


def update(slots: Sequence[Slot], options: AdamWOptions, learning_rate: float) -> None:
    """Move every tensor that has a gradient, in place."""
    whole: dict[tuple[float, float], list[Slot]] = {}
    for slot in slots:
        if slot.parameter.grad is None:
            continue
        if slot.projected is not None:
            _update_projected(slot, slot.projected, options, learning_rate * slot.rate_scale)
            continue
        if not slot.state:
            slot.state = new_state(slot.parameter, options.kind)
        if slot.state["exp_avg"].dtype != slot.parameter.dtype:  # quantised, or bfloat16 weights
            _update_in_pieces(slot, options, learning_rate * slot.rate_scale)
        else:
            whole.setdefault((slot.rate_scale, slot.weight_decay), []).append(slot)
    for (scale, decay), alike in whole.items():
        tensors = [(s.parameter.detach(), s.parameter.grad, s.state) for s in alike]
        _adamw(tensors, options, learning_rate * scale, decay)


def new_state(parameter: Tensor, kind: Kind) -> dict[str, Tensor]:
    """Return the state before the first update: no steps, moments of zero.

    Moments in 32 bits have the shape of the parameter, in float32 or wider.
    """
    device = parameter.device
    state = {"step": torch.zeros((), dtype=torch.float32, device=device)}
    if kind == "adamw" or parameter.numel() < SMALLEST_QUANTISED:
        wide = torch.promote_types(parameter.dtype, torch.float32)
        return state | {
            name: torch.zeros_like(parameter, dtype=wide, memory_format=torch.contiguous_format)
            for name in ("exp_avg", "exp_avg_sq")
        }
    blocks = -(-parameter.numel() // BLOCK)
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = torch.zeros(parameter.shape, dtype=torch.uint8, device=device)
        state[f"{name}_scale"] = torch.zeros(blocks, device=device)
    return state


def state_bytes(elements: int, kind: Kind) -> int:
    """Return the bytes that the moments of a tensor of so many elements take."""
    if kind == "adamw" or elements < SMALLEST_QUANTISED:
        return 8 * elements
    return 2 * (elements + 4 * -(-elements // BLOCK))


def round_stochastically(wide: Tensor, generator: torch.Generator) -> Tensor:
    """Return float32 numbers in bfloat16, each up or down with a chance by its distance.

    The expectation is the number itself. bfloat16 is the upper half of float32: a random lower half
    is added, and what does not carry over is cut off.
    """
    noise = torch.randint(
        1 << 16, wide.shape, generator=generator, device=wide.device, dtype=torch.int32
    )
    bits = noise.add_(wide.view(torch.int32)).bitwise_and_(-(1 << 16))
    return bits.view(torch.float32).to(torch.bfloat16)


def check_installed(kind: Kind) -> None:
    """Raise RecipeError where `kind` needs a package that is not here."""
    if kind == "adamw_8bit":
        _bitsandbytes()


def _rounded(slot: Slot, options: AdamWOptions) -> bool:
    return options.stochastic_rounding and slot.parameter.dtype == torch.bfloat16


def _update_projected(
    slot: Slot, projection: Projection, options: AdamWOptions, rate: float
) -> None:
    assert slot.parameter.grad is not None
    if not slot.state:
        slot.state = new_projected_state(slot.parameter, projection)

    def moments(moved: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        _adamw([(moved, gradient, state)], options, 1.0, 0.0)

    weights, generator = slot.parameter.detach(), _generator(slot, options.seed)
    wide = weights.to(torch.promote_types(weights.dtype, torch.float32))
    update_projected(
        wide,
        slot.parameter.grad.detach(),
        slot.state,
        projection,
        moments,
        rate,
        slot.weight_decay,
    )
    if wide.dtype != weights.dtype:
        rounded = _rounded(slot, options)
        weights.copy_(round_stochastically(wide, generator) if rounded else wide)


def _update_in_pieces(slot: Slot, options: AdamWOptions, rate: float) -> None:
    weights, rounded = slot.parameter.detach().view(-1), _rounded(slot, options)
    assert slot.parameter.grad is not None
    gradient = slot.parameter.grad.detach().contiguous().view(-1)
    flat = {name: tensor.view(-1) for name, tensor in slot.state.items()}
    generator = _generator(slot, options.seed)
    step = slot.state["step"].clone()
    for start in range(0, len(weights), _PIECE):
        piece = slice(start, start + _PIECE)
        wide = weights[piece].to(torch.promote_types(weights.dtype, torch.float32))
        state = {name: flat[name][piece] for name in ("exp_avg", "exp_avg_sq")}
        state["step"] = step.clone()
        if slot.quantised:
            blocks = slice(start // BLOCK, (start + _PIECE) // BLOCK)
            state |= {n: flat[n][blocks] for n in ("exp_avg_scale", "exp_avg_sq_scale")}
            _adamw_8bit(wide, gradient[piece].float(), state, options, rate, slot.weight_decay)
        else:
            near = (wide, gradient[piece].to(wide.dtype), state)
            _adamw([near], options, rate, slot.weight_decay)
        if rounded:
            weights[piece] = round_stochastically(wide, generator)
        elif wide.dtype != weights.dtype:
            weights[piece] = wide.to(weights.dtype)
    slot.state["step"] += 1


def _adamw(
    tensors: Sequence[tuple[Tensor, Tensor | None, Mapping[str, Tensor]]],
    options: AdamWOptions,
    rate: float,
    decay: float,
) -> None:
    """AdamW (Loshchilov & Hutter 2019), fused, on (weights, gradient, state)."""
    adamw(
        [weights for weights, _, _ in tensors],
        [gradient for _, gradient, _ in tensors if gradient is not None],
        [state["exp_avg"] for _, _, state in tensors],
        [state["exp_avg_sq"] for _, _, state in tensors],
        [],
        [state["step"] for _, _, state in tensors],
        fused=True,
        amsgrad=False,
        beta1=options.beta1,
        beta2=options.beta2,
        lr=rate,
        weight_decay=decay,
        eps=options.epsilon,
        maximize=False,
    )


def _adamw_8bit(
    weights: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    options: AdamWOptions,
    rate: float,
    decay: float,
) -> None:
    signed, unsigned = _code_books(weights.device)
    _bitsandbytes().optimizer_update_8bit_blockwise(
        "adam",
        gradient,
        weights,
        state["exp_avg"],
        state["exp_avg_sq"],
        options.beta1,
        options.beta2,
        0.0,
        0.0,
        options.epsilon,
        int(state["step"]) + 1,
        rate,
        signed,
        unsigned,
        state["exp_avg_scale"],
        state["exp_avg_sq_scale"],
        decay,
    )


def _generator(slot: Slot, seed: int) -> torch.Generator:
    """Numbers that depend on the seed, the step and the tensor, and on nothing drawn before."""
    mixed = (seed * 1_000_003 + int(slot.state["step"])) * 100_003 + slot.place
    return torch.Generator(slot.parameter.device).manual_seed(mixed % 2**63)


@cache
def _code_books(device: torch.device) -> tuple[Tensor, Tensor]:
    """The 256 values that a byte stands for: of the mean, and of the variance."""
    make = _bitsandbytes().create_dynamic_map
    return make(signed=True).to(device), make(signed=False).to(device)


@cache
def _bitsandbytes() -> Any:
    try:
        import bitsandbytes.functional
    except ImportError as error:
        raise RecipeError(
            "Moments in 8 bits need the package bitsandbytes, which is not installed.",
            where="training.optimizer",
            fix='Install it: pip install "tunesmith[quantized]", or set it to adamw.',
        ) from error
    return bitsandbytes.functional
