"""What a frozen prefix gives, computed alone, and the way on from there.

    ids ──compute_rows──> rows_TD ──going_on──> layers k + 1 … ──> hidden_TD
                          may be kept           the stock body, but for the layers passed over

Positions, rotary angles and masks stay the stock model's own: its body runs as ever, with the
frozen layers handing on what they are given and the last of them giving the rows. Whether a family
can go on like that is tried (`refusal`), not read from a table. Only single instances are changed,
and put back. It knows no file: `kept_rows.py` keeps rows.

Shapes: T tokens, M rows that are computed (fewer where beginnings are shared), N documents, L
longest document, D model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.data.batch import Stream
from tunesmith.engine.packing import Layout, pad, run_body
from tunesmith.engine.prefix import Prefix, hidden_of, layers_of, made_up
from tunesmith.engine.sharing import shared_beginnings
from tunesmith.models.model import Model
from tunesmith.models.seeded import seeded


def compute_rows(
    model: Model, prefix: Prefix, stream: Stream, layout: Layout, *, packed: bool
) -> Tensor:
    """Return what the prefix gives for each token, `rows_TD`; nothing above it is computed."""
    last = layers_of(model)[prefix.layers - 1]

    def stop(module: nn.Module, given: Any, output: Any) -> None:
        raise _ReachedError(hidden_of(output))

    handle = last.register_forward_hook(stop)
    try:
        run_body(model, stream, layout, packed=packed, share=True)
    except _ReachedError as reached:
        hidden = reached.hidden
    finally:
        handle.remove()
    if not packed:
        return hidden[pad(stream)[0]]
    sharing = None if hidden.shape[1] == len(stream.ids_T) else shared_beginnings(stream)
    return hidden[0] if sharing is None else hidden[0].index_select(0, sharing.place_T)


@contextmanager
def going_on(
    model: Model, prefix: Prefix, rows_TD: Tensor, stream: Stream, *, packed: bool
) -> Iterator[None]:
    """Within, the body passes over the prefix and takes `rows_TD` for what it would have given."""

    def put_in(hidden: Tensor) -> Tensor:
        if packed:
            sharing = None if hidden.shape[1] == len(rows_TD) else shared_beginnings(stream)
            rows_MD = rows_TD if sharing is None else rows_TD[sharing.kept_M]
            return rows_MD[None]
        real_NL, _ = pad(stream)
        hidden_NLD = rows_TD.new_zeros(*real_NL.shape, rows_TD.shape[1])
        hidden_NLD[real_NL] = rows_TD
        return hidden_NLD

    *lower, last = layers_of(model)[: prefix.layers]
    with ExitStack() as stack:
        for layer, length in zip(lower, prefix.outputs, strict=False):
            stack.enter_context(_replaced(layer, lambda hidden: hidden, length))
        stack.enter_context(_replaced(last, put_in, prefix.outputs[-1]))
        yield


def refusal(model: Model, prefix: Prefix, layout: Layout, *, packed: bool) -> str | None:
    """Return why this body cannot go on from kept rows, or None where it can.

    It must end in the same numbers, bit by bit, and its prefix must give the same in training.
    """
    if not prefix.outputs:
        return f"a {model.anatomy.family} model runs its layers several times"
    was_training = model.module.training
    try:
        with torch.no_grad():
            model.module.eval()
            rows_TD = _goes_on(model, prefix, layout, packed)
            if rows_TD is None:
                return f"the layers of a {model.anatomy.family} model hand on more than one tensor"
            model.module.train()
            for module in prefix.modules:
                module.eval()
            with seeded(0):
                again_TD = compute_rows(model, prefix, made_up(model), layout, packed=packed)
            if not torch.equal(again_TD, rows_TD):
                return "something below them is dropped at random while the rest trains"
            return None
    finally:
        model.module.train(was_training)


class _ReachedError(Exception):
    """The prefix has been computed; carries what its last layer gave."""

    def __init__(self, hidden: Tensor | None) -> None:
        super().__init__()
        assert hidden is not None  # `find_prefix` has seen it
        self.hidden = hidden


def _goes_on(model: Model, prefix: Prefix, layout: Layout, packed: bool) -> Tensor | None:
    """The prefix's rows, where the body ends in the same numbers when they are put in."""
    stream = made_up(model)
    expected = run_body(model, stream, layout, packed=packed)
    rows_TD = compute_rows(model, prefix, stream, layout, packed=packed)
    try:
        with going_on(model, prefix, rows_TD, stream, packed=packed):
            found = run_body(model, stream, layout, packed=packed)
    except Exception:  # a body that misses what its layers did raises whatever it likes
        return None
    return rows_TD if torch.equal(found, expected) else None


@contextmanager
def _replaced(layer: nn.Module, give: Callable[[Tensor], Tensor], length: int) -> Iterator[None]:
    """Within, this layer returns `give(its hidden state)`, in the form in which it returns."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        given = give(hidden_states)
        return (given, *[None] * (length - 1)) if length else given

    own = vars(layer).get("forward")  # a fast form may be in place already
    vars(layer)["forward"] = forward
    try:
        yield
    finally:
        del vars(layer)["forward"]
        if own is not None:
            vars(layer)["forward"] = own
