"""What a layer is made of: how it attends, and how wide its feed-forward part is.

    module, Layer, configuration ──attention_of──> Attention …
                                 ──feed_forward_of──> FeedForward

Sizes are read from the shapes of the weights, so that a family needs no entry of its own: how many
key-value heads there are is what the key projection gives, divided by the size of a head. Only
what shapes cannot say (a window, an activation) is asked of the configuration. It works on weights
without data (the meta device) and runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from tunesmith.models.anatomy.anatomy import Layer
from tunesmith.models.anatomy.study import is_linear

_HEAD_SIZES = ("qk_head_dim", "head_dim", "attention_head_size", "key_value_proj_dim", "head_size")
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_ACTIVATIONS = ("hidden_act", "activation_function", "hidden_activation", "activation",
                "dense_act_fn", "ffn_act_fn")  # fmt: skip


@dataclass(frozen=True)
class Attention:
    """How a layer attends.

    Attributes:
        role: `self`, or `cross` where a decoder looks at an encoder.
        heads, key_value_heads, head_size: None where the shapes do not say.
        variant: multi-head, grouped-query, multi-query, latent, or unknown.
        fused: whether one linear map gives queries, keys and values.
        bias: whether its linear maps have biases.
        normed: whether queries and keys are normalised.
        window: how many tokens back it sees; None: all.
    """

    role: str
    heads: int | None
    key_value_heads: int | None
    head_size: int | None
    variant: str
    fused: bool
    bias: bool
    normed: bool
    window: int | None


@dataclass(frozen=True)
class FeedForward:
    """The part of a layer that works on each token alone.

    Attributes:
        size: its inner width.
        activation: name of the activation, as the configuration gives it.
        gated: whether one half of the inner values gates the other (SwiGLU and kin).
        experts, experts_per_token: of a mixture; None where there is none.
    """

    size: int | None
    activation: str | None
    gated: bool
    experts: int | None = None
    experts_per_token: int | None = None


def attention_of(module: nn.Module, layer: Layer, index: int) -> tuple[Attention, ...]:
    """Return how the layer at place `index` of its stack attends."""
    config: Any = module.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return tuple(_attention(module, name, config, index) for name in layer.attentions)


def feed_forward_of(module: nn.Module, layer: Layer) -> FeedForward | None:
    """Return the layer's feed-forward part; None where it has none that is made of linear maps."""
    config: Any = module.config
    activation = next(
        (str(value) for name in _ACTIVATIONS if isinstance(value := getattr(config, name, 0), str)),
        None,
    )
    part = module.get_submodule(layer.name)
    stacked = [weight for weight in part.parameters() if weight.ndim == 3]
    if stacked:
        size = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
        chosen = getattr(config, "num_experts_per_tok", None)
        return FeedForward(size, activation, True, stacked[0].shape[0], chosen)
    if not layer.attentions:
        return None
    return _dense(module, layer, activation)


def map_sizes(part: nn.Module) -> tuple[int, int]:
    """Return how many values a linear map takes and gives."""
    known: Any = part
    if hasattr(part, "in_features"):
        return int(known.in_features), int(known.out_features)
    weight: Any = part.weight
    given, taken = weight.shape
    return given, taken


def _dense(module: nn.Module, layer: Layer, activation: str | None) -> FeedForward | None:
    sizes = [map_sizes(module.get_submodule(name)) for name in layer.feed_forward]
    if len(sizes) < 2:
        return None
    width = sizes[0][0]
    inner = next((taken for taken, given in reversed(sizes) if given == width), None)
    if inner is None:
        return None
    up = sum(given for taken, given in sizes if taken == width and given in (inner, 2 * inner))
    return FeedForward(inner, activation, gated=inner != width and up >= 2 * inner)


def _attention(module: nn.Module, name: str, config: Any, index: int) -> Attention:
    part = module.get_submodule(name)
    maps = {inner.split(".")[-1]: p for inner, p in part.named_modules() if is_linear(p)}
    fused = _fused(maps)
    query = next((p for n, p in maps.items() if n.startswith("q") and p is not fused), fused)
    key = next((p for n, p in maps.items() if n.startswith("k") and not n.startswith("kv")), fused)
    size = _stated(part, _HEAD_SIZES) or _head_size(part, config)
    heads = key_value_heads = None
    if size and query is not None:
        heads = _stated(part, _HEADS) or (
            getattr(config, "num_attention_heads", None) if fused else map_sizes(query)[1] // size
        )
    if heads and size and key is not None:
        given = map_sizes(key)[1]
        key_value_heads = (given - heads * size) // (2 * size) if key is fused else given // size
    latent = any(n.startswith("kv_") for n in maps)
    return Attention(
        role="cross" if _is_cross(name, part) else "self",
        heads=heads,
        key_value_heads=None if latent else key_value_heads,
        head_size=size,
        variant="latent" if latent else _variant(heads, key_value_heads),
        fused=fused is not None,
        bias=any(getattr(p, "bias", None) is not None for p in maps.values()),
        normed=any(n.split(".")[-1].startswith(("q_n", "k_n", "q_l", "k_l"))
                   and "Norm" in type(p).__name__ for n, p in part.named_modules()),
        window=_window(part, config, index),
    )  # fmt: skip


def _fused(maps: dict[str, nn.Module]) -> nn.Module | None:
    for name, part in maps.items():
        if any(word in name.lower() for word in ("qkv", "query_key_value", "c_attn", "att_proj")):
            return part
    return None


def _variant(heads: int | None, key_value_heads: int | None) -> str:
    if not heads or not key_value_heads:
        return "unknown"
    if heads == key_value_heads:
        return "multi-head"
    return "multi-query" if key_value_heads == 1 else "grouped-query"


def _stated(part: nn.Module, names: tuple[str, ...]) -> int | None:
    for inner in part.modules():
        for name in names:
            value = getattr(inner, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return None


def _head_size(part: nn.Module, config: Any) -> int | None:
    size = getattr(config, "head_dim", None)
    width, heads = getattr(config, "hidden_size", None), _stated(part, _HEADS)
    heads = heads or getattr(config, "num_attention_heads", None)
    return size or (width // heads if width and heads else None)


def _is_cross(name: str, part: nn.Module) -> bool:
    words = f"{name.rpartition('.')[2]} {type(part).__name__}".lower()
    return "cross" in words or "encoder_attn" in words or "encdec" in words


def _window(part: nn.Module, config: Any, index: int) -> int | None:
    """Modules know their own window; older ones leave it to the configuration's mask."""
    stated = [getattr(inner, "sliding_window", "unsaid") for inner in part.modules()]
    known = [window for window in stated if window != "unsaid"]
    if known:
        return next((window for window in known if isinstance(window, int)), None)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and index < len(kinds) and "sliding" not in kinds[index]:
        return None
    return window if isinstance(window, int) else None


def writing_maps(module: nn.Module, layer: Layer) -> list[str]:
    """Return the linear maps by which a layer writes: the last of attention and feed-forward.

    What they give is added to what goes past the layer.
    """
    names: list[str] = []
    for attention in layer.attentions:
        inner = [name for name in layer.linears if name.startswith(f"{attention}.")]
        fused = _fused({name.rsplit(".", 1)[-1]: module.get_submodule(name) for name in inner})
        names += [
            name
            for name in inner
            if not name.rsplit(".", 1)[-1].startswith(("q", "k", "v"))
            and module.get_submodule(name) is not fused
        ]
    forward = [(name, map_sizes(module.get_submodule(name))) for name in layer.feed_forward]
    if forward:
        width = forward[0][1][0]
        names += [name for name, (taken, given) in forward[1:] if given == width != taken]
    return names
