"""Changes how wide the feed-forward part of every layer is.

    narrower   the units that write most stay: |what reads into a unit| * |what it writes|
    wider      new units are copies of the strongest and write nothing at first, so that the model
               answers as before (Net2Net: Chen et al., 2015, arXiv:1511.05641, in part)

A narrower model has to be trained to make up for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import RecipeError
from tunesmith.models.surgery.base import Operation
from tunesmith.registry import OPERATIONS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tunesmith.models.anatomy import Layer
    from tunesmith.models.draft import Draft

_FIELDS = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "hidden_dim", "d_ff")


@OPERATIONS.register("width")
class Width(Operation):
    """Change the width of the feed-forward parts."""

    class Options(BaseModel):
        """How wide."""

        model_config = ConfigDict(extra="forbid")

        size: int = Field(ge=1, description="inner units of the feed-forward part of every layer")

    _grows = False

    @property
    def keeps_answers(self) -> bool:
        """New units write nothing yet."""
        return self._grows

    def alter(self, draft: Draft) -> str:
        """Leave units out, or add some.

        Raises:
            RecipeError: the family has no class of this shape, or its layers differ in width.
        """
        from tunesmith.models.anatomy.blocks import feed_forward_of

        skeleton = draft.skeleton()
        sizes = {
            None if found is None or found.experts else found.size
            for found in (feed_forward_of(skeleton, layer) for layer in draft.anatomy.layers)
        }
        old = sizes.pop() if len(sizes) == 1 else None
        if old is None or old == draft.anatomy.hidden_size:
            raise RecipeError(
                f"The feed-forward parts of this {draft.anatomy.family} model are mixtures, differ "
                "in width, or are as wide as the model: it is not known which side to change.",
                where="surgery.width",
                fix="Leave the operation out.",
            )
        if self.options.size == old:
            raise RecipeError(
                f"The feed-forward parts are {old} units wide already.",
                where="surgery.width.size",
                fix="Leave the operation out.",
            )
        self._grows = self.options.size > old
        for layer in draft.anatomy.layers:
            self._change(draft, skeleton, layer, old)
        config = draft.text_config
        stated = [name for name in _FIELDS if hasattr(config, name)]
        field = next((name for name in stated if getattr(config, name) == old), None)
        if not stated:
            raise RecipeError(
                f"The family {draft.anatomy.family} does not state its width.",
                where="surgery.width",
                fix="Leave the operation out.",
            )
        draft.set_option(field or stated[0], self.options.size)  # GPT-2 states none: four times
        draft.restudy()
        return f"Feed-forward parts of {self.options.size:,} units, before {old:,}."

    def _change(self, draft: Draft, skeleton: nn.Module, layer: Layer, old: int) -> None:
        import torch
        from transformers.pytorch_utils import Conv1D

        names = layer.feed_forward
        turned = {n for n in names if isinstance(skeleton.get_submodule(n), Conv1D)}
        shapes = {name: _turned(draft.weights[f"{name}.weight"], name in turned) for name in names}
        reading = [name for name, weight in shapes.items() if weight.shape[0] in (old, 2 * old)]
        [writing] = [name for name, weight in shapes.items() if weight.shape[1] == old]
        strength = shapes[writing].float().norm(dim=0)
        for name in reading:
            strength = strength * shapes[name].float().reshape(-1, old, shapes[name].shape[1]).norm(
                dim=(0, 2)
            )
        order = strength.argsort(descending=True)
        if self._grows:
            extra = order.repeat(-(-self.options.size // old))[: self.options.size - old]
            units = torch.cat([torch.arange(old), extra])
        else:
            units = order[: self.options.size].sort().values
        for name in reading:
            inputs = shapes[name].shape[1]
            rows = shapes[name].reshape(-1, old, inputs)[:, units].reshape(-1, inputs)
            draft.weights[f"{name}.weight"] = _turned(rows, name in turned).contiguous()
            bias = f"{name}.bias"
            if bias in draft.weights:
                kept = draft.weights[bias].reshape(-1, old)[:, units]
                draft.weights[bias] = kept.flatten().clone()
        columns = shapes[writing][:, units].clone()
        columns[:, old:] = 0
        draft.weights[f"{writing}.weight"] = _turned(columns, writing in turned).contiguous()


def _turned(weight: Tensor, turned: bool) -> Tensor:
    """A weight as [outputs, inputs] where it is GPT-2's, which are [inputs, outputs]; and back."""
    return weight.T if turned else weight
