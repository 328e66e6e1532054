"""Where the frozen part of a body ends: what lies below the first thing that learns.

    ids ──embeddings, layers 1 … k──> hidden ──layers k + 1 …──> hidden_TD
          nothing here learns                  a gradient comes back to here, and no further

`find_prefix` runs the body once on made-up text and looks where the first hidden state asks for a
gradient, so that it holds whatever the reason for which the layers below are frozen. These modules
stay in evaluation mode while the rest trains: what cannot learn should not be disturbed, and gives
the same in every epoch. It changes nothing, and computes nothing that is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.data.batch import Encoded, EncodedStream, Stream, collate
from tunesmith.engine.packing import Layout, run_body
from tunesmith.models.model import Model
from tunesmith.models.quantised import stored_tensors


@dataclass(frozen=True)
class Prefix:
    """What of a body lies below the first thing that learns.

    Attributes:
        layers: k, the number of its layers.
        whole: nothing learns on which the body's last hidden state depends.
        modules: what runs in it, each without those inside it.
        outputs: for each of its layers, the length of the tuple that it returns, or 0 for a tensor;
            empty where the layers do not run once each, from the bottom up.
    """

    layers: int = 0
    whole: bool = False
    modules: tuple[nn.Module, ...] = ()
    outputs: tuple[int, ...] = ()


def find_prefix(model: Model, layout: Layout, *, packed: bool) -> Prefix:
    """Find the frozen prefix, by running the body on a few tokens of made-up text."""
    layers = layers_of(model)
    bottom = [model.module.get_submodule(model.anatomy.embeddings), layers[0]]
    if any(parameter.requires_grad for part in bottom for parameter in part.parameters()):
        return Prefix()
    was_training = model.module.training
    model.module.eval()
    try:
        seen = _watch(model, layout, packed)
    finally:
        model.module.train(was_training)
    in_order = [id(module) for module, _ in seen.returned] == [id(layer) for layer in layers]
    hidden = [hidden_of(output) for _, output in seen.returned]
    learns = [state is None or state.requires_grad for state in hidden]
    whole = not seen.hidden_TD.requires_grad
    count = learns.index(True) if True in learns else len(layers)
    if not count or not (whole or in_order):  # layers that run several times have no "below"
        return Prefix()
    outputs = [len(o) if isinstance(o, tuple) else 0 for _, o in seen.returned] if in_order else []
    return Prefix(count, whole, tuple(_below(model, seen, count, whole)), tuple(outputs[:count]))


def frozen_tensors(model: Model, prefix: Prefix) -> Iterator[Tensor]:
    """Yield the weights and buffers of a prefix, those included that the body itself holds."""
    inside = {id(part) for module in prefix.modules for part in module.modules()}
    for module in model.body.modules():
        if id(module) not in inside and not inside.isdisjoint(map(id, module.modules())):
            own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
            yield from (tensor for tensor in own if not tensor.requires_grad)
    for module in prefix.modules:
        yield from stored_tensors(module)


def layers_of(model: Model) -> list[nn.Module]:
    """Return the layers of a model, bottom up."""
    return [model.module.get_submodule(layer.name) for layer in model.anatomy.layers]


def hidden_of(output: Any) -> Tensor | None:
    """Return the hidden state in what a layer returned; None where there is none."""
    found = output[0] if isinstance(output, tuple) and output else output
    return found if isinstance(found, Tensor) else None


def made_up(model: Model) -> Stream:
    """Return two documents, the same every time; none of it drawn from the run's own generators."""
    generator = torch.Generator().manual_seed(3)
    size = model.anatomy.vocab_size
    drawn = [torch.randint(min(10, size // 2), size, (n,), generator=generator) for n in (5, 9)]
    examples = [Encoded({"text": EncodedStream(tuple(ids.tolist()))}) for ids in drawn]
    return collate(examples).text.to(next(model.module.parameters()).device)


@dataclass
class _Seen:
    """What one run of the body showed: which modules began, in order, and what layers returned."""

    began: list[nn.Module]
    returned: list[tuple[nn.Module, Any]]
    hidden_TD: Tensor


def _watch(model: Model, layout: Layout, packed: bool) -> _Seen:
    began: list[nn.Module] = []
    returned: list[tuple[nn.Module, Any]] = []

    def note_begin(module: nn.Module, given: Any) -> None:
        began.append(module)

    def note_output(module: nn.Module, given: Any, output: Any) -> None:
        returned.append((module, output))

    handles = [part.register_forward_pre_hook(note_begin) for part in model.body.modules()]
    handles += [layer.register_forward_hook(note_output) for layer in layers_of(model)]
    try:
        with torch.enable_grad():
            hidden_TD = run_body(model, made_up(model), layout, packed=packed)
    finally:
        for handle in handles:
            handle.remove()
    return _Seen(began, returned, hidden_TD)


def _below(model: Model, seen: _Seen, count: int, whole: bool) -> list[nn.Module]:
    """The outermost modules that are done before layer `count` begins; all of a frozen body."""
    layers = layers_of(model)
    end = len(seen.began)
    if not whole and count < len(layers):
        end = next(i for i, module in enumerate(seen.began) if module is layers[count])
    elif not whole:  # what lies behind the last layer learns
        inside_last = {id(module) for module in layers[-1].modules()}
        end = max(i for i, module in enumerate(seen.began) if id(module) in inside_last) + 1
    later = {id(module) for module in seen.began[end:]}
    taken: set[int] = set()
    found = []
    for module in seen.began[:end]:
        inside = [id(part) for part in module.modules()]
        learns = any(parameter.requires_grad for parameter in module.parameters())
        if id(module) in taken or learns or not later.isdisjoint(inside):
            continue
        taken.update(inside)
        found.append(module)
    return found
