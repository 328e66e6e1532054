"""GaLore: the moments of a matrix are kept for its gradient in a few directions, not for all.

    G (m x n), P = the first r left singular vectors of G      (right ones where m > n)
    R = P' G  ──AdamW's moments──> N (r x n)       W <- W - rate * scale * P N

The weights stay whole and all of them learn; the moments take r (m + 2 n) numbers instead of 2 m n
(Zhao et al., 2024, arXiv:2403.03507). Every so many updates P is taken anew from the gradient of
that step, and the moments go on. What is no matrix, or has no more than r rows or columns, is moved
as ever. It knows no group and no schedule.

Shapes: m <= n after turning, r rank.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tunesmith.techniques.base import Projection


def new_projected_state(parameter: Tensor, projection: Projection) -> dict[str, Tensor]:
    """Return the state before the first update: no steps, moments of zero, no directions yet."""
    small, large = sorted(parameter.shape)
    options = {"device": parameter.device, "dtype": torch.float32}
    return {
        "step": torch.zeros((), **options),  # type: ignore[call-overload]
        "exp_avg": torch.zeros(projection.rank, large, **options),  # type: ignore[call-overload]
        "exp_avg_sq": torch.zeros(projection.rank, large, **options),  # type: ignore[call-overload]
        "directions": torch.zeros(small, projection.rank, **options),  # type: ignore[call-overload]
    }


@torch.no_grad()
def update_projected(
    parameter: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    projection: Projection,
    moments: Callable[[Tensor, Tensor, dict[str, Tensor]], None],
    rate: float,
    decay: float,
) -> None:
    """Move a matrix in place.

    Args:
        moments: moves a tensor by a gradient at rate 1, keeping its moments in the state given.
        decay: decoupled weight decay a step is rate * this.
    """
    turned = parameter.shape[0] > parameter.shape[1]
    wide = gradient.float()
    gradient_MN = wide.T if turned else wide
    if int(state["step"]) % projection.every == 0:
        left_MM, _, _ = torch.linalg.svd(gradient_MN, full_matrices=False)
        state["directions"].copy_(left_MM[:, : projection.rank])
    directions_MR = state["directions"]
    moved_RN = torch.zeros_like(state["exp_avg"])
    kept = {name: state[name] for name in ("step", "exp_avg", "exp_avg_sq")}
    moments(moved_RN, (directions_MR.T @ gradient_MN).contiguous(), kept)
    change_MN = directions_MR @ moved_RN
    change = (change_MN.T if turned else change_MN) * (rate * projection.scale)
    if decay:
        parameter.mul_(1.0 - rate * decay)
    parameter.add_(change.to(parameter.dtype))
