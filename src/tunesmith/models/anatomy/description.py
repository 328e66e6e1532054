"""A model taken apart for people to read: its parts, what each is made of and how large it is.

    module ──describe──> Description(parts: Part …)

Every parameter is counted in exactly one part, weights that are shared in the first that holds
them, so the parts add up to the whole. It works without data (the meta device) and on models that
are no text transformers at all: what has no layers is shown by its top modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tunesmith.errors import ModelError
from tunesmith.models.anatomy.anatomy import Anatomy, Layer
from tunesmith.models.anatomy.blocks import Attention, FeedForward, attention_of, feed_forward_of
from tunesmith.models.anatomy.positions import Positions, positions_of
from tunesmith.models.anatomy.study import UNLIMITED, stacks, study
from tunesmith.models.kinds import kind_of
from tunesmith.models.quantised import base_bytes


@dataclass(frozen=True)
class Part:
    """A part with weights of its own.

    Attributes:
        role: `embedding`, `positions`, `layers`, `norm`, `pooler`, `output`, `head` or `other`.
        name: the module's name, as `get_submodule` takes it.
        parameters, bytes: of what is counted here.
        shape: the sizes of its only matrix, where it is one.
    """

    role: str
    name: str
    parameters: int
    bytes: int
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class LayerKind:
    """Layers of a stack that are alike.

    Attributes:
        indices: their places in the stack, from 0.
        attention: how they attend; two where a decoder looks at an encoder too; empty for none.
        feed_forward: what works on each token alone.
        norms: type and count of their norms, as `RMSNorm`: 2.
        parameters, bytes: of one of them.
        attention_parameters, feed_forward_parameters, norm_parameters: of one of them.
    """

    indices: tuple[int, ...]
    attention: tuple[Attention, ...]
    feed_forward: FeedForward | None
    norms: dict[str, int]
    parameters: int
    bytes: int
    attention_parameters: int
    feed_forward_parameters: int
    norm_parameters: int


@dataclass(frozen=True)
class Stack:
    """Repeated layers: `encoder`, `decoder`, or `stages` of a network that attends nowhere."""

    role: str
    name: str
    kinds: tuple[LayerKind, ...]
    parameters: int
    bytes: int

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return sum(len(kind.indices) for kind in self.kinds)


@dataclass(frozen=True)
class Description:
    """What a model is. Sizes are in tokens, elements, parameters and bytes.

    `quantized_bytes` are those of all weights where it is a frozen base, by `base.quantize`.
    """

    family: str
    kind: str
    architecture: str
    dtype: str
    parameters: int
    bytes: int
    hidden_size: int | None
    vocab_size: int | None
    context_length: int | None
    positions: Positions
    output: str | None
    tied: bool
    parts: tuple[Part, ...]
    stacks: tuple[Stack, ...]
    quantized_bytes: Mapping[str, int]


def describe(module: nn.Module) -> Description:
    """Return what `module`, a transformers model, is made of."""
    config: Any = module.config
    try:
        anatomy: Anatomy | None = study(module)
    except ModelError:
        anatomy = None  # an image network has no token embedding
    counted = _Counted(module)
    found = stacks(module)
    kind = kind_of(config.to_dict())
    parts_before = [_part(module, counted, *named) for named in _named_parts(module, anatomy)]
    described = tuple(_stack(module, counted, name, layers, kind) for name, layers in found.items())
    rest = [
        _part(module, counted, "other", name)
        for name, inner in module.named_modules()
        if not any(True for _ in inner.children()) or any(True for _ in inner.parameters(False))
    ]
    parameters, size = counted.totals()
    limit = anatomy.context_length if anatomy else UNLIMITED
    return Description(
        family=config.model_type,
        kind=kind,
        architecture=type(module).__name__,
        dtype=str(next(module.parameters()).dtype).removeprefix("torch."),
        parameters=parameters,
        bytes=size,
        hidden_size=anatomy.hidden_size if anatomy else None,
        vocab_size=anatomy.vocab_size if anatomy else None,
        context_length=None if limit == UNLIMITED else limit,
        positions=positions_of(module),
        output=anatomy.output if anatomy else None,
        tied=bool(anatomy and anatomy.tied),
        parts=tuple(part for part in (*parts_before, *rest) if part and part.parameters),
        stacks=described,
        quantized_bytes=base_bytes(module, anatomy) if anatomy else {},
    )


class _Counted:
    """Counts each parameter once, whoever asks first."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._seen: set[int] = set()

    def take(self, parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
        """Return count and bytes of those that were not taken before."""
        count = size = 0
        for parameter in parameters:
            if id(parameter) not in self._seen:
                self._seen.add(id(parameter))
                count += parameter.numel()
                size += parameter.numel() * parameter.element_size()
        return count, size

    def totals(self) -> tuple[int, int]:
        """Return count and bytes of the whole model, shared weights once."""
        return _Counted(self._module).take(self._module.parameters())


def _named_parts(module: nn.Module, anatomy: Anatomy | None) -> list[tuple[str, str]]:
    """Roles and names of the parts outside the layers, in the order of the data."""
    if anatomy is None:
        return []
    before = [("embedding", anatomy.embeddings)]
    within = tuple(f"{stack}." for stack in stacks(module))
    for name, part in module.named_modules():
        last = name.rsplit(".", 1)[-1]
        is_table = isinstance(part, nn.Embedding) and name != anatomy.embeddings
        if is_table and not name.startswith(within):
            places = "pos" in last or last in ("wpe", "rel_embeddings")
            before.append(("positions" if places else "embedding", name))
    norms = [("norm", name) for name in anatomy.norms if not name.startswith(within)]
    after = [("pooler", anatomy.pooler)] if anatomy.pooler else []
    after += [("output", anatomy.output)] if anatomy.output else []
    return [*before, *norms, *after, *(("head", name) for name in anatomy.head)]


def _part(module: nn.Module, counted: _Counted, role: str, name: str) -> Part | None:
    inner = module.get_submodule(name)
    shapes = [tuple(p.shape) for p in inner.parameters() if p.ndim >= 2]
    own = list(inner.parameters(recurse=role != "other"))
    if not own:
        return None
    count, size = counted.take(own)
    return Part(role, name, count, size, shapes[0] if len(shapes) == 1 else ())


def _stack(
    module: nn.Module, counted: _Counted, name: str, layers: tuple[Layer, ...], kind: str
) -> Stack:
    alike: dict[Any, list[tuple[int, int, int]]] = {}
    for index, layer in enumerate(layers):
        attention, forward = attention_of(module, layer, index), feed_forward_of(module, layer)
        norms: dict[str, int] = {}
        for norm in layer.norms:
            type_name = _plain(type(module.get_submodule(norm)).__name__)
            norms[type_name] = norms.get(type_name, 0) + 1
        parts = (
            sum(counted_apart(module, layer.attentions)),
            sum(counted_apart(module, layer.feed_forward)) + _experts(module, layer),
            sum(counted_apart(module, _outside(layer.norms, layer.attentions))),
        )
        total = counted.take(module.get_submodule(layer.name).parameters())
        key = (attention, forward, tuple(norms.items()), parts, total)
        alike.setdefault(key, []).append((index, *total))
    kinds = tuple(
        LayerKind(
            indices=tuple(index for index, _, _ in members),
            attention=attention,
            feed_forward=forward,
            norms=dict(norms),
            parameters=total[0],
            bytes=total[1],
            attention_parameters=parts[0],
            feed_forward_parameters=parts[1],
            norm_parameters=parts[2],
        )
        for (attention, forward, norms, parts, total), members in alike.items()
    )
    return Stack(
        role=_role(name, kinds, kind),
        name=name,
        kinds=kinds,
        parameters=sum(kind.parameters * len(kind.indices) for kind in kinds),
        bytes=sum(kind.bytes * len(kind.indices) for kind in kinds),
    )


def counted_apart(module: nn.Module, names: Iterable[str]) -> list[int]:
    """Return how many parameters each named module has."""
    return [sum(p.numel() for p in module.get_submodule(name).parameters()) for name in names]


def _outside(names: tuple[str, ...], holders: tuple[str, ...]) -> list[str]:
    within = tuple(f"{holder}." for holder in holders)
    return [name for name in names if not name.startswith(within)]


def _experts(module: nn.Module, layer: Layer) -> int:
    """Parameters of a mixture that are stacked in one tensor, and its router."""
    known = {id(p) for name in layer.linears for p in module.get_submodule(name).parameters()}
    known |= {id(p) for n in layer.attentions for p in module.get_submodule(n).parameters()}
    parameters = module.get_submodule(layer.name).parameters()
    return sum(p.numel() for p in parameters if p.ndim >= 2 and id(p) not in known)


def _role(name: str, kinds: tuple[LayerKind, ...], kind: str) -> str:
    if not any(k.attention for k in kinds):
        return "stages"
    words = name.split(".")
    if kind == "encoder-decoder":
        return "decoder" if "decoder" in words else "encoder"
    return kind if kind in ("encoder", "decoder") else "layers"


def _plain(type_name: str) -> str:
    """`LlamaRMSNorm` is an RMSNorm."""
    return next((end for end in ("RMSNorm", "LayerNorm", "BatchNorm2d") if type_name.endswith(end)),
                type_name)  # fmt: skip
