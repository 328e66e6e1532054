"""Prunes attention heads: every layer keeps those that write most.

    a head's strength = |values' rows| * |output's columns|      (Frobenius norms)

Heads that write little are the least missed (after Michel et al., 2019, arXiv:1905.10650; here by
their weights alone). Where several query heads share keys and values, whole groups go. The size of
a head stays, so the family must state it apart from the hidden size, as Llama and its kin do. The
model has to be trained to make up for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import RecipeError
from tunesmith.models.surgery.base import Operation
from tunesmith.registry import OPERATIONS

if TYPE_CHECKING:
    from tunesmith.models.anatomy.blocks import Attention
    from tunesmith.models.draft import Draft

_WHERE = "surgery.heads.keep"


@OPERATIONS.register("heads")
class Heads(Operation):
    """Prune attention heads."""

    class Options(BaseModel):
        """How many stay."""

        model_config = ConfigDict(extra="forbid")

        keep: int = Field(
            ge=1, description="attention heads that each layer keeps: those that write most"
        )

    def alter(self, draft: Draft) -> str:
        """Leave the weakest heads of each layer out.

        Raises:
            RecipeError: the family has no class of this shape, or its heads cannot be told apart.
        """
        from tunesmith.models.anatomy.blocks import attention_of

        skeleton = draft.skeleton()
        counts: tuple[int, int, int] | None = None
        for number, layer in enumerate(draft.anatomy.layers):
            [attention, *others] = attention_of(skeleton, layer, number)
            found = _counts(attention)
            if others or attention.fused or found is None or counts not in (None, found):
                raise RecipeError(
                    f"The heads of this {draft.anatomy.family} model cannot be told apart: "
                    "queries, keys and values are not maps of their own, or layers differ.",
                    where="surgery.heads",
                    fix="Leave the operation out; `drop` leaves whole layers out of any model.",
                )
            counts = found
            self._prune(draft, layer.attentions[0], *found)
        assert counts is not None
        heads, shared, size = counts
        draft.set_option("num_attention_heads", self.options.keep)
        draft.set_option("num_key_value_heads", self.options.keep * shared // heads)
        draft.set_option("head_dim", size)
        draft.restudy()
        return f"Kept {self.options.keep} of {heads} attention heads in each layer."

    def _prune(self, draft: Draft, attention: str, heads: int, shared: int, size: int) -> None:
        group = heads // shared
        if self.options.keep >= heads or self.options.keep % group:
            raise RecipeError(
                f"{self.options.keep} of {heads} heads cannot be kept: "
                + (f"{group} share their keys and values." if group > 1 else "none would go."),
                where=_WHERE,
                fix=f"Give a multiple of {group} below {heads}.",
            )
        maps = _maps(draft, attention)
        values = draft.weights[f"{maps['v']}.weight"].float().view(shared, -1)
        output = draft.weights[f"{maps['o']}.weight"].float()
        written = output.view(len(output), shared, -1).transpose(0, 1).reshape(shared, -1)
        strength = values.norm(dim=1) * written.norm(dim=1)
        best = strength.argsort(descending=True)[: self.options.keep // group].sort().values
        for role, of_each in (("q", group * size), ("k", size), ("v", size)):
            for part in ("weight", "bias"):
                name = f"{maps[role]}.{part}"
                if name in draft.weights:
                    tensor = draft.weights[name]
                    rows = tensor.reshape(shared, of_each, *tensor.shape[1:])
                    draft.weights[name] = rows[best].flatten(0, 1).clone()
        tensor = draft.weights[f"{maps['o']}.weight"]
        columns = tensor.reshape(len(tensor), shared, group * size)
        draft.weights[f"{maps['o']}.weight"] = columns[:, best].flatten(1, 2).clone()


def _counts(attention: Attention) -> tuple[int, int, int] | None:
    counts = (attention.heads, attention.key_value_heads, attention.head_size)
    return None if None in counts else counts  # type: ignore[return-value]


def _maps(draft: Draft, attention: str) -> dict[str, str]:
    """Names of the query, key, value and output maps of one attention, as `q`, `k`, `v`, `o`."""
    found: dict[str, Any] = {}
    for layer in draft.anatomy.layers:
        for name in layer.linears:
            if name.startswith(f"{attention}."):
                letter = name.rsplit(".", 1)[-1][0]
                found[letter if letter in "qkv" else "o"] = name
    if len(found) != 4:
        raise RecipeError(
            f"The heads of this {draft.anatomy.family} model cannot be told apart.",
            where="surgery.heads",
            fix="Leave the operation out.",
        )
    return found
