"""Fast forms of single modules, put in place of their `forward` where they do the same.

    norms            one pass                          any root-mean-square norm
    adapted layers   one function, nothing recomputed  LoRA on a frozen linear layer
    feed-forward     gate and up as one product        silu(gate) * up, frozen weights
    dropout          nothing kept, many at a time      nn.Dropout, on the CPU
    attention        q, k, v as one product, rotated   Llama's form, frozen weights, on the CPU,
                     in place                          in packed batches

The modules keep their parameters and names: the state dict is unchanged, and `Engine(fuse=False)`
takes the stock forms. Nothing is patched at class level. Whether a module is of a form is seen
from its parts and then *probed*: the fast form must give what the stock form gives on made-up
input, or the stock form stays.

A joint product needs the frozen weights of its layers one under another: they are moved into one
tensor, of which each layer's weight is a slice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.engine.packing import packed_row, spans_of_row
from tunesmith.kernels import native
from tunesmith.kernels.attention import packed_rotary_attention
from tunesmith.kernels.dropout import dropout as drop
from tunesmith.kernels.lora import LowRank, lora_product
from tunesmith.kernels.norms import rms_norm
from tunesmith.kernels.swiglu import swiglu
from tunesmith.models.model import Model
from tunesmith.models.packed_maps import is_wrapped
from tunesmith.models.quantised import quantised_maps

Forward = Callable[..., Any]

# transformers' norms and rotary angles are float32 whatever the model computes in.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-3}


def fused(model: Model, dtype: torch.dtype) -> dict[str, str]:
    """Put fast forms in place; return which part uses which, for the record of the run."""
    counts: Counter[str] = Counter()
    was_training = model.module.training
    model.module.eval()
    with torch.no_grad():
        for module in model.body.modules():
            for part, find in _FORMS.items():
                forward = find(module)
                if forward is not None:
                    module.forward = forward
                    counts[part] += 1
                    break
            if model.streamed is not None:
                model.streamed.release()
    model.module.train(was_training)
    parts = {part: f"{count} fast" for part, count in sorted(counts.items())}
    packed = len(quantised_maps(model.body))
    if packed:
        parts["quantised maps"] = f"{packed} expanded one by one: joint products need plain weights"
    return {"element-wise": native.native().reason, "format": str(dtype), **parts}


def _norm(module: Any) -> Forward | None:
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if "RMSNorm" not in type(module).__name__ or weight is None or epsilon is None:
        return None
    probe = _made_up((3, len(weight)), weight)
    for offset in (0.0, 1.0):

        def forward(hidden_states: Tensor, offset: float = offset) -> Tensor:
            scale_D = module.weight + offset if offset else module.weight
            return rms_norm(hidden_states, scale_D, epsilon)

        if _same(forward(probe), module.forward(probe)):
            return forward
    return None


def _adapted(module: Any) -> Forward | None:
    if not (hasattr(module, "lora_A") and _is_frozen_product(module)):
        return None
    stock = module.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or not _is_plain(module):
            return stock(x, *args, **kwargs)
        base = module.base_layer
        return lora_product(x, base.weight, base.bias, [_adapter(module)], [base.out_features])

    return forward


def _feed_forward(module: Any) -> Forward | None:
    layers = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not _are_frozen_products(layers[:2]) or not isinstance(layers[2], nn.Module):
        return None
    if _base(layers[0]).out_features != _base(layers[1]).out_features:
        return None
    stock, joint, down = module.forward, _Joint(layers[:2]), layers[2]

    def forward(x: Tensor) -> Any:
        if not joint.ready():
            return stock(x)
        if not (_is_frozen_product(down) and _is_plain(down)):
            return down(swiglu(joint(x)))
        base, adapters = _base(down), [_adapter(down)]
        return lora_product(
            joint(x), base.weight, base.bias, adapters, [base.out_features], gate_up=True
        )

    weight = _base(layers[0]).weight
    probe = _made_up((3, weight.shape[1]), weight)
    return forward if _same(forward(probe), stock(probe)) else None


def _attention(module: Any) -> Forward | None:
    kind = type(module).__name__
    layers = [getattr(module, name, None) for name in ("q_proj", "k_proj", "v_proj")]
    if kind not in _WINDOW or not _are_frozen_products(layers):
        return None
    if _base(layers[0]).weight.device.type != "cpu":
        return None
    stock, joint = module.forward, _Joint(layers)
    window, size = _WINDOW[kind](module), module.head_dim
    heads, key_heads = (_base(layer).out_features // size for layer in layers[:2])

    def forward(
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        spans = spans_of_row(causal=True, window=window)
        dropout = module.attention_dropout if module.training else 0.0
        plain = attention_mask is None and past_key_values is None and not dropout
        if spans is None or position_embeddings is None or not plain or not joint.ready():
            return stock(
                hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
            )
        cos_TK, sin_TK = (part[0] for part in position_embeddings)
        output_TC = packed_rotary_attention(
            joint(hidden_states)[0], cos_TK, sin_TK, heads, key_heads, spans, scale=module.scaling
        )
        return module.o_proj(output_TC[None]), None

    weight = _base(layers[0]).weight
    probe = _made_up((1, 7, weight.shape[1]), weight)
    angles = _made_up((1, 7, size // 2), weight).repeat(1, 1, 2)
    rotation = (angles.cos().to(probe.dtype), angles.sin().to(probe.dtype))
    with packed_row(module, torch.tensor([0, 4, 7], dtype=torch.int32)):
        ours, theirs = forward(probe, rotation)[0], stock(probe, rotation, None)[0]
    return forward if _same(ours, theirs) else None


def _dropout(module: Any) -> Forward | None:
    if type(module) is not nn.Dropout:
        return None
    stock = module.forward

    def forward(x: Tensor) -> Tensor:
        if not module.training or not module.p or x.device.type != "cpu":
            dropped: Tensor = stock(x)
            return dropped
        return drop(x, module.p)

    return forward


_FORMS: dict[str, Callable[[Any], Forward | None]] = {
    "norms": _norm,
    "dropout": _dropout,
    "adapted layers": _adapted,
    "feed-forward": _feed_forward,
    "attention": _attention,
}

_WINDOW: dict[str, Callable[[Any], int | None]] = {
    "LlamaAttention": lambda module: None,
    "MistralAttention": lambda module: getattr(module.config, "sliding_window", None),
    "Qwen2Attention": lambda module: module.sliding_window,
}


class _Joint:
    """Several frozen layers of one input as one product, each with the adapter it has now."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = layers
        bases = [_base(layer) for layer in layers]
        self._sizes = [base.out_features for base in bases]
        self._weight_OD = _one_under_another([base.weight.detach() for base in bases])
        starts = [sum(self._sizes[:i]) for i in range(len(bases))]
        for base, start in zip(bases, starts, strict=True):
            base.weight.data = self._weight_OD[start : start + base.out_features]
        self._places = [base.weight.data_ptr() for base in bases]
        biases = [base.bias for base in bases]
        self._bias_O = None if biases[0] is None else torch.cat([b.detach() for b in biases])

    def ready(self) -> bool:
        """Whether the layers are still as they were when they were joined."""
        places = [_base(layer).weight.data_ptr() for layer in self._layers]
        return places == self._places and all(map(_is_plain, self._layers))

    def __call__(self, x: Tensor) -> Tensor:
        adapters = [_adapter(layer) for layer in self._layers]
        return lora_product(x, self._weight_OD, self._bias_O, adapters, self._sizes)


def _one_under_another(weights: Sequence[Tensor]) -> Tensor:
    """Return the rows of all as one tensor: a view, where they lie in memory like that already."""
    first, rows, ends = weights[0], sum(map(len, weights)), weights[0].data_ptr()
    for weight in weights:
        if weight.data_ptr() != ends or not weight.is_contiguous():
            return torch.cat(list(weights))
        ends += weight.nbytes
    if first.untyped_storage().data_ptr() + first.untyped_storage().nbytes() < ends:
        return torch.cat(list(weights))
    size = first.shape[1]
    return first.as_strided((rows, size), (size, 1), first.storage_offset())


def _base(layer: Any) -> Any:
    return getattr(layer, "base_layer", layer)


def _are_frozen_products(layers: Sequence[Any]) -> bool:
    """Whether these are linear layers that can be joined: frozen, all with or without a bias."""
    if not all(isinstance(layer, nn.Module) and _is_frozen_product(layer) for layer in layers):
        return False
    bases = [_base(layer) for layer in layers]
    same = {(base.bias is None, base.weight.dtype, base.weight.device) for base in bases}
    return len(same) == 1 and any(hasattr(layer, "lora_A") for layer in layers)


def _is_frozen_product(layer: Any) -> bool:
    """Whether this is a frozen linear layer, bare or with one ordinary LoRA adapter."""
    base = _base(layer)
    if type(base) is not nn.Linear or any(p.requires_grad for p in base.parameters()):
        return False
    if is_wrapped(base.weight):
        return False
    return layer is base or (hasattr(layer, "lora_A") and _is_plain(layer))


def _is_plain(layer: Any) -> bool:
    """Whether a layer computes now what LoRA's formula says: one adapter or none, not merged."""
    factors = getattr(layer, "lora_A", None)
    if factors is None:
        return True
    if not isinstance(factors, nn.ModuleDict):  # AdaLoRA's are bare, and have a third between them
        return False
    if layer.merged or len(layer.active_adapters) > 1 or getattr(layer, "lora_variant", None):
        return False
    return not any(getattr(layer, "lora_bias", {}).values())


def _adapter(layer: Any) -> LowRank | None:
    """The adapter in use at this moment, or None where it is switched off or there is none."""
    if not hasattr(layer, "lora_A") or layer.disable_adapters:
        return None
    (name,) = layer.active_adapters
    if name not in layer.lora_A:
        return None
    dropout = layer.lora_dropout[name]
    rate = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    a_RD, b_OR = layer.lora_A[name].weight, layer.lora_B[name].weight
    return LowRank(a_RD, b_OR, layer.scaling[name], rate)


def _made_up(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The same numbers every time, and none drawn from the run's own generators."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return numbers.to(like.device, like.dtype)


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether outputs agree within what their precision allows."""
    tolerance = _TOLERANCE[theirs.dtype]
    return bool((ours - theirs).float().norm() <= tolerance * theirs.float().norm())
