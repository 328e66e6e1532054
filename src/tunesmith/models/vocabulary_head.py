"""What stands between a body and its layer over the vocabulary, in models that fill in words.

    hidden_ND ──the model's own transform──> states_ND ──output layer──> logits

Encoders turn a hidden state once more (a linear map, an activation, a norm) before their output
layer reads it, each family under names of its own. None of these is known here: the stock model is
called with the body standing aside and the output layer handing on what it is given.

Shapes: N tokens, D model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

if TYPE_CHECKING:
    from tunesmith.models.model import Model


def output_states(model: Model, hidden_ND: Tensor) -> Tensor:
    """Return what the output layer reads of hidden states; of a decoder, these themselves."""
    if model.head != "masked_lm":
        return hidden_ND
    said = BaseModelOutput(last_hidden_state=hidden_ND[None])
    output = model.module.get_submodule(model.anatomy.output or "")
    with (
        _standing_in(model.body, lambda *args, **given: said),
        _standing_in(output, lambda states: states),
    ):
        states_1ND: Tensor = model.module(input_ids=None).logits
    return states_1ND[0]


@contextmanager
def _standing_in(part: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within, this one part of a model does something else."""
    own = vars(part).get("forward")
    vars(part)["forward"] = forward
    try:
        yield
    finally:
        del vars(part)["forward"]
        if own is not None:
            vars(part)["forward"] = own
