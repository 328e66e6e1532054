"""Rotary positions, in place: the first heads of each token's row are turned by its position.

    (a, b) ──> (a cos - b sin, b cos + a sin)      a, b: the two halves of a head

Nothing is saved: the backward pass is the same with the rotation turned round.
Shapes: T tokens, N heads, K head size. It knows no model and no frequencies.
"""

from __future__ import annotations

from torch import Tensor

from tunesmith.kernels import native


def rotate_(
    x_TC: Tensor, cos_TK: Tensor, sin_TK: Tensor, heads: int, *, backward: bool = False
) -> None:
    """Rotate the first `heads` heads of every row of x in place; the rest of a row is left alone.

    Args:
        x_TC: contiguous, C at least heads * K.
        cos_TK, sin_TK: float32 (float64 where x is), contiguous, of each row's position.
        backward: apply the transposed rotation, to a gradient.
    """
    rows, size = cos_TK.shape
    if native.usable(x_TC):
        direction = -1.0 if backward else 1.0
        arguments = (x_TC, cos_TK, sin_TK, direction, rows, heads, size, x_TC.shape[1])
        native.call("rotary", *arguments, dtype=x_TC.dtype)
        return
    turned = x_TC[:, : heads * size].view(rows, heads, 2, size // 2)
    first, second = turned[:, :, 0], turned[:, :, 1]
    (cos_1, cos_2), (sin_1, sin_2) = (t[:, None].chunk(2, -1) for t in (cos_TK, sin_TK))
    if backward:
        sin_1, sin_2 = -sin_2, -sin_1
    new_first = first * cos_1 - second * sin_1
    new_second = second * cos_2 + first * sin_2
    first.copy_(new_first)
    second.copy_(new_second)
