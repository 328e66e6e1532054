"""Gives back to low-rank adapters what quantising took from the maps beside which they stand.

    W (files) - Q (as it is stored) = U S V  ──the first R──>  B = U sqrt(S / s),  A = sqrt(S / s) V

so that Q + s B A, with which the model begins, is as near to W as rank R allows (LoftQ: Li et al.
2023, arXiv:2310.08659). LoftQ goes on from there: it quantises W - s B A anew, and so on in turn.
That Q is not what quantising the published base gives, and its adapter would be of use beside it
alone. Here the base stays what others get of it, which is LoftQ's first round. One map at a time is
expanded.

Shapes: O outputs, I inputs, R rank; N the smaller of O and I, M the larger.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import RecipeError
from tunesmith.kernels.expanded import expanded
from tunesmith.models.load import as_in_files
from tunesmith.models.model import Model
from tunesmith.models.quantised import is_quantised
from tunesmith.models.virtual_tokens import ADAPTER


def check_quantised_here(model: Model) -> None:
    """Raise RecipeError unless the base was quantised when it was loaded, from whole weights."""
    if model.quantised is None:
        raise RecipeError(
            f"`initial: loftq` gives back what quantising takes from weights, and {_state(model)}.",
            where="technique.initial",
            fix="Set base.quantize to nf4 and name a model that is published whole, or leave"
            " `initial` out.",
        )


@torch.no_grad()
def give_back(model: Model) -> None:
    """Set the factors of each adapter on a quantised map; the base is only read.

    Raises:
        ModelError: the base's files cannot be read.
    """
    adapters: dict[str, Any] = {
        name: part
        for name, part in model.module.named_modules()
        if ADAPTER in getattr(part, "lora_A", ()) and is_quantised(part)
    }
    if not adapters:  # a shape, whose weights are not here
        return
    whole = as_in_files(model)
    for name, adapted in adapters.items():
        scale = adapted.scaling[ADAPTER]
        stored_OI = stored_weight(adapted.base_layer)
        lost_OI = _published(whole.get_submodule(name)).to(stored_OI) - stored_OI
        up, down = adapted.lora_B[ADAPTER].weight, adapted.lora_A[ADAPTER].weight
        b_OR, a_RI = factors(lost_OI / scale, len(down))
        up[:, : len(a_RI)] = b_OR
        down[: len(a_RI)] = a_RI
        if ADAPTER in adapted.lora_magnitude_vector:  # DoRA measures what it begins with
            lengths_O = torch.linalg.norm(stored_OI + scale * (up @ down), dim=1)
            adapted.lora_magnitude_vector[ADAPTER].weight.copy_(lengths_O)


def factors(matrix_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return B `[O, R]` and A `[R, I]` whose product is nearest to the matrix, in its dtype.

    R is the rank, or as many as the matrix has rows or columns. Column r of B is as long as row r
    of A. What 4 bits leave over has no steep spectrum, and a randomised decomposition would miss
    much of it: the products of the small side's vectors are decomposed, in float64.
    """
    wide = matrix_OI.shape[0] <= matrix_OI.shape[1]
    matrix_NM = (matrix_OI if wide else matrix_OI.T).double()
    _, vectors_NN = torch.linalg.eigh(matrix_NM @ matrix_NM.T)
    vectors_NR = vectors_NN[:, -rank:]
    rows_RM = vectors_NR.T @ matrix_NM
    roots_R1 = rows_RM.norm(dim=1, keepdim=True).sqrt()
    vectors_NR, rows_RM = vectors_NR * roots_R1.T, rows_RM / roots_R1.clamp_min(1e-30)
    b_OR, a_RI = (vectors_NR, rows_RM) if wide else (rows_RM.T, vectors_NR.T)
    return b_OR.to(matrix_OI.dtype), a_RI.to(matrix_OI.dtype)


def stored_weight(part: Any) -> Tensor:
    """Return what a map that bitsandbytes stores multiplies with: `[O, I]`, float32."""
    from bitsandbytes.functional import dequantize_4bit

    if type(part).__name__ == "Linear8bitLt":
        return expanded(part.weight.data, part.state.SCB, torch.float32)
    weight_OI: Tensor = dequantize_4bit(part.weight.data, part.weight.quant_state)
    return weight_OI.float()


def _published(part: Any) -> Tensor:
    weight: Tensor = part.weight
    return weight.T if isinstance(part, Conv1D) else weight


def _state(model: Model) -> str:
    stored: Any = getattr(model.module.config, "quantization_config", None)
    return "this base is not quantised" if stored is None else "this base was stored without it"
