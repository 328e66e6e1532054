"""How many floating-point operations a model's mathematics needs for a batch: model FLOPs.

    module + anatomy ──training_cost──> Cost ──flops(Work)──> FLOPs of one forward and backward

The count that "model FLOPs utilisation" divides by time (Chowdhery et al. 2022, PaLM, appendix B).
A multiplication and an addition are two. N is the number of weights of a linear map:

    a map's forward                                          2 N
    + the gradient of its input, where something below learns 2 N
    + the gradient of its weight, where it learns             2 N

so a frozen map costs 4 N and one that learns 6 N for each token, and what lies below the lowest
layer that learns 2 N; nothing where its output was kept and is read. An adapter's two matrices are
maps of their own. How often a map is applied: those of layers at every token, the output layer at
the positions that are learnt, a task's head
once a document. Of a mixture of experts, those count that a token is sent to.

Attention costs 4 H K for each pair of a query and a key that it may see, forward (scores, then
values; H heads of K elements), and 8 H K more where a gradient passes: 12 H K. Pairs are counted
by document and exactly: L (L + 1) / 2 of a causal document of L tokens, L² where both directions
are seen, fewer in a sliding window.

Where documents begin alike, and their beginning is computed once, it is counted once. Virtual
tokens are counted with each document: as tokens before it, or, where they are keys and values
alone, in the pairs; what makes them (the maps of p-tuning) once for each of them.

Not counted: looking up embeddings, norms, activations, softmax, positions, the loss, the
optimiser, padding, and whatever is computed a second time to save memory. In the lowest layer that
learns every map is counted with the gradient of its input; its first ones (q, k, v) may do without
where only adapters, or keys and values before each text, learn. That is the one place where more
may be counted than is needed.

It runs nothing and reads shapes alone: a module on the `meta` device will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.data.batch import Batch
from tunesmith.models.anatomy import Anatomy
from tunesmith.models.anatomy.blocks import attention_of
from tunesmith.models.heads import HEADS, head_of
from tunesmith.models.model import Virtual
from tunesmith.models.virtual_tokens import HOLDER

_PASS = 2.0
"""FLOPs of one weight in one product: a multiplication and an addition."""


@dataclass(frozen=True)
class Work:
    """What a batch asks of a model.

    Attributes:
        lengths: tokens of each document.
        targets: positions whose next token is learnt.
        sources: of an encoder-decoder, tokens of the text that each document is written from.
        begun: how many of the first tokens of each document are computed with another one; empty
            where every document is computed by itself.
    """

    lengths: tuple[int, ...]
    targets: int = 0
    sources: tuple[int, ...] = ()
    begun: tuple[int, ...] = ()

    @classmethod
    def of(cls, batch: Batch, begun: tuple[int, ...] = ()) -> Work:
        """Return the work of a batch.

        Args:
            begun: see the class.
        """
        read = batch.source
        streams = [stream for stream in batch.streams.values() if stream is not read]
        weights = [stream.weights_T for stream in streams if stream.weights_T is not None]
        return cls(
            tuple(length for stream in streams for length in stream.lengths),
            sum(int((weights_T != 0).sum()) for weights_T in weights),
            () if read is None else tuple(read.lengths),
            begun,
        )


@dataclass(frozen=True)
class Cost:
    """FLOPs of a forward and backward pass, by what they grow with.

    Attributes:
        token: of each token read, attention apart.
        target: of each position that is learnt.
        document: of each document.
        pair: of each pair of a query and a key that it may see, by the width of the layers'
            sliding window (None: as far as the document goes).
        causal: whether a query sees only what stands before it.
        source: of an encoder-decoder, of each token of a source.
        read: of each pair of two tokens of a source, which an encoder sees in both directions.
        across: of each pair of a token that is written and a token of its source.
        virtual: what is read before each document, where a technique has put something there.
    """

    token: float
    target: float
    document: float
    pair: Mapping[int | None, float]
    causal: bool
    source: float = 0.0
    read: float = 0.0
    across: float = 0.0
    virtual: Virtual | None = None

    def flops(self, work: Work) -> float:
        """Return the FLOPs of this work."""
        # Of each document, virtual tokens among them: where its own queries begin and end.
        before = self.virtual.tokens if self.virtual else 0
        unasked = before if self.virtual and self.virtual.cached else 0
        begun = work.begun or (0,) * len(work.lengths)
        rows = [
            (unasked + shared, before + length)
            for shared, length in zip(begun, work.lengths, strict=True)
        ]
        attention = sum(
            flops
            * sum(pairs(end, causal=self.causal, window=window, first=own) for own, end in rows)
            for window, flops in self.pair.items()
        )
        return (
            self.token * sum(end - own for own, end in rows)
            + self.target * work.targets
            + self.document * len(work.lengths)
            + attention
            + self._of_sources(work)
        )

    def _of_sources(self, work: Work) -> float:
        between = sum(s * t for s, t in zip(work.sources, work.lengths, strict=bool(work.sources)))
        within = sum(length * length for length in work.sources)
        return self.source * sum(work.sources) + self.read * within + self.across * between

    def of_heads(self) -> Cost:
        """Return what is left where all that the head reads of a document was kept."""
        return replace(self, token=0.0, target=0.0, pair={}, source=0.0, read=0.0, across=0.0)


def pairs(length: int, *, causal: bool, window: int | None = None, first: int = 0) -> int:
    """Return how many pairs of a query and a key that it may see a document has.

    Args:
        window: how many keys back a query sees, itself included; in both directions, how far to
            either side.
        first: the first query; those before it are keys alone.
    """
    back = _looking_back(length, window) - _looking_back(first, window)
    if causal:
        return back
    # What stands behind the last queries is as much as what stands before the first ones.
    asking = length - first
    return back + _looking_back(asking, window) - asking


def _looking_back(length: int, window: int | None) -> int:
    reach = length if window is None else min(window, length)
    return reach * (reach + 1) // 2 + (length - reach) * reach


def training_cost(
    module: nn.Module, anatomy: Anatomy, kept: int = 0, virtual: Virtual | None = None
) -> Cost:
    """Return what one forward and backward pass costs, with what learns as it is marked now.

    Args:
        module: the model, adapters and heads included; what learns has `requires_grad`.
        anatomy: what is where in it.
        kept: the lowest layers whose output is read, not computed.
        virtual: what is read before each document.
    """
    if anatomy.encoder is not None:
        return _cost_of_pairs(module, anatomy)
    config: Any = module.config
    text: Any = config.get_text_config()
    times = _times_each_layer_runs(text, len(anatomy.layers))
    below = _learns(_foot(module, anatomy))
    token = _cost(_foot_maps(module, anatomy), below)
    pair: dict[int | None, float] = {}
    for number, layer in enumerate(anatomy.layers):
        block = module.get_submodule(layer.name)
        below = below or _learns(block.parameters())
        if number < kept:
            continue
        maps = [m for name in layer.linears for m in _maps(module.get_submodule(name))]
        token += times * _cost([*maps, *_experts(block, text)], below)
        window = _window(text, number)
        width = _score_width(text, number)
        if width:
            factor = 4.0 + 8.0 * below
            pair[window] = pair.get(window, 0.0) + times * factor * width
    below = below or _learns(_parameters(module, anatomy.final_norms))
    target = 0.0
    if anatomy.output is not None:
        target = _cost(_maps(module.get_submodule(anatomy.output)), below)
    document = 0.0
    if virtual is not None:
        made_by = _maps(module.get_submodule(f"{anatomy.embeddings}.{HOLDER}"))
        document = virtual.tokens * _cost(made_by, True)
    for name in anatomy.task_modules:
        part = module.get_submodule(name)
        if HEADS[head_of(module)].of_tokens:
            token += _cost(_maps(part), below)
        else:
            document += _cost(_maps(part), below)
        below = below or _learns(part.parameters())
    return Cost(token, target, document, pair, anatomy.kind == "decoder", virtual=virtual)


def _cost_of_pairs(module: nn.Module, anatomy: Anatomy) -> Cost:
    """Return the cost of an encoder-decoder; keys and values across are maps of the source."""
    config: Any = module.config
    width = _score_width(config.get_text_config(), 0)
    below = _learns(_foot(module, anatomy))
    token = source = read = written = across = 0.0
    reading_learns = below
    for number, layer in enumerate(anatomy.layers):
        encodes = layer.name.startswith(f"{anatomy.encoder}.")
        if not encodes:
            below = below or _learns(_parameters(module, anatomy.encoder_norms))
        below = below or _learns(module.get_submodule(layer.name).parameters())
        reading_learns = below if encodes else reading_learns
        of_source: set[str] = set()
        for name, attention in zip(
            layer.attentions, attention_of(module, layer, number), strict=True
        ):
            flops = (4.0 + 8.0 * below) * width
            if attention.role == "cross":
                across += flops
                inner = (n for n in layer.linears if n.startswith(f"{name}."))
                of_source |= {n for n in inner if n.rsplit(".", 1)[-1].startswith(("k", "v"))}
            elif encodes:
                read += flops
            else:
                written += flops
        for name in layer.linears:
            maps = list(_maps(module.get_submodule(name)))
            if encodes or name in of_source:
                source += _cost(maps, reading_learns)
            else:
                token += _cost(maps, below)
    below = below or _learns(_parameters(module, anatomy.final_norms))
    target = _cost(_maps(module.get_submodule(anatomy.output or "")), below)
    pair: dict[int | None, float] = {None: written}
    return Cost(token, target, 0.0, pair, True, source, read, across)


@dataclass(frozen=True)
class _Map:
    """A linear map: how many weights, and whether they learn."""

    weights: float
    learns: bool


def _cost(maps: Iterable[_Map], below: bool) -> float:
    return sum(_PASS * each.weights * (1 + below + each.learns) for each in maps)


def _maps(part: nn.Module) -> Iterator[_Map]:
    """Every linear map in `part`: itself, or what an adapter put in its place and beside it."""
    for name, leaf in part.named_modules():
        weight: Any = getattr(leaf, "weight", None)
        if not isinstance(leaf, nn.Linear | Conv1D) or "original_module" in name.split("."):
            continue  # PEFT keeps an unused copy of a head that learns whole
        # A weight that is stored packed has fewer elements than the map has weights.
        size = leaf.in_features * leaf.out_features if isinstance(leaf, nn.Linear) else None
        yield _Map(float(size or weight.numel()), bool(weight.requires_grad))


def _experts(block: nn.Module, text: Any) -> Iterator[_Map]:
    """Weights of experts, stacked [experts, rows, columns]: the share that a token is sent to."""
    chosen = getattr(text, "num_experts_per_tok", None)
    if not chosen:
        return
    for part in block.modules():
        for weight in part.parameters(recurse=False):
            if weight.ndim == 3 and not isinstance(part, nn.Conv1d):
                share = min(1.0, chosen / weight.shape[0])
                yield _Map(share * weight.numel(), weight.requires_grad)


def _foot(module: nn.Module, anatomy: Anatomy) -> Iterator[nn.Parameter]:
    """Parameters below the first layer: embeddings and what belongs to them."""
    above = [layer.name for layer in anatomy.layers] + _tops(anatomy)
    above += [*anatomy.encoder_norms, *anatomy.final_norms]
    for name, parameter in module.named_parameters():
        if _within(name, [anatomy.embeddings]) or not _within(name, above):
            yield parameter


def _foot_maps(module: nn.Module, anatomy: Anatomy) -> Iterator[_Map]:
    """Linear maps of the body that stand outside its layers, such as OPT's narrowing."""
    elsewhere = [layer.name for layer in anatomy.layers] + _tops(anatomy)
    elsewhere.append(f"{anatomy.embeddings}.{HOLDER}")
    body = module.get_submodule(anatomy.body)
    prefix = f"{anatomy.body}." if anatomy.body else ""
    for name, part in body.named_modules():
        if isinstance(part, nn.Linear | Conv1D) and not _within(prefix + name, elsewhere):
            yield from _maps(part)


def _tops(anatomy: Anatomy) -> list[str]:
    """What stands above the body: output layer, pooler, head."""
    named = (anatomy.output, anatomy.pooler, *anatomy.head)
    return [name for name in named if name]


def _within(name: str, parts: Sequence[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _parameters(module: nn.Module, names: Iterable[str]) -> Iterator[nn.Parameter]:
    for name in names:
        yield from module.get_submodule(name).parameters()


def _learns(parameters: Iterable[nn.Parameter]) -> bool:
    return any(parameter.requires_grad for parameter in parameters)


def _times_each_layer_runs(text: Any, layers: int) -> int:
    """Families that share weights between layers (ALBERT) run each of them several times."""
    return max(1, (getattr(text, "num_hidden_layers", None) or layers) // layers)


def _layer_kind(text: Any, number: int) -> str | None:
    kinds = getattr(text, "layer_types", None)
    return kinds[number] if kinds and number < len(kinds) else None


def _score_width(text: Any, number: int) -> float:
    """H K of a layer: heads times their size (the mean of keys' and values'); 0 without scores."""
    heads = getattr(text, "num_attention_heads", None)
    kind = _layer_kind(text, number)
    if not heads or (kind is not None and ("attention" not in kind or "linear" in kind)):
        return 0.0
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    keys = getattr(text, "qk_head_dim", None) or size
    values = getattr(text, "v_head_dim", None) or size
    return float(heads * (keys + values) / 2)


def _window(text: Any, number: int) -> int | None:
    kind = _layer_kind(text, number)
    slides = kind is None or "sliding" in kind
    return getattr(text, "sliding_window", None) if slides else None
