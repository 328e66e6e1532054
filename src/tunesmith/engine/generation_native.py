"""A Llama-like body as one compiled call a step, where it gives what the stock body gives.

    NativeBody.of(model, shape, cache, copies) ──> the body, or None where it is of another form
    body.run(step) ──> logits of every text

It is for float32 on a processor. Adapters are read as they are at that moment, and so are weights,
where they lie; weights that 16 bits hold without loss are read from such a copy: half the bytes,
the same numbers. Whether a body is of the form is seen from its parts, and then *probed* by
the caller against the stock body.

Shapes: N texts, D model, O outputs, V vocabulary, K head size.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.engine.generation_cache import Cache, KeptLayer, Step
from tunesmith.engine.readout import logits, shaped
from tunesmith.kernels.decoder import (
    Layer,
    Linear,
    Seen,
    Stack,
    compact,
    is_copy,
    library,
    linear_product,
)
from tunesmith.kernels.norms import rms_norm
from tunesmith.kernels.token_loss import LogitShape
from tunesmith.models.model import Model
from tunesmith.models.packed_maps import is_wrapped

_GELU = {"silu": False, "swish": False, "gelu_pytorch_tanh": True, "gelu_tanh": True}


class Copies:
    """Copies of weights in 16 bits, kept until the model learns again."""

    def __init__(self) -> None:
        self._copies: dict[tuple[int, int, tuple[int, ...]], tuple[Tensor, Tensor]] = {}

    def of(self, weight: Tensor) -> Tensor:
        """Return the weight as it is read: a copy, or itself."""
        weight = weight.detach()
        key = (weight.data_ptr(), weight._version, tuple(weight.shape))
        kept = self._copies.get(key)
        # Who changes a weight through `.data` changes no version; hardly one spares the first row.
        if kept is None or not is_copy(kept[1][:1], weight[:1]):
            kept = self._copies[key] = (weight, compact(weight))
        return kept[1]

    def clear(self) -> None:
        """Let go of the copies."""
        self._copies.clear()


class NativeBody:
    """The body's layers over one cache, with the adapters that are in use when it is made."""

    def __init__(
        self, model: Model, shape: LogitShape, cache: Cache, stack: Stack, copies: Copies
    ) -> None:
        self._model, self._shape, self._cache, self._stack = model, shape, cache, stack
        body: Any = model.body
        self._body = body
        self._kinds = _kinds(body, len(cache.layers))
        output: Any = model.module.get_submodule(model.anatomy.output or "")
        self._output = None
        if type(output) is nn.Linear:
            bias = None if output.bias is None else output.bias.detach()
            self._output = Linear(copies.of(output.weight), bias)

    @classmethod
    def of(cls, model: Model, shape: LogitShape, cache: Cache, copies: Copies) -> NativeBody | None:
        """Return the compiled form of this body, or None where it is of another.

        Args:
            cache: prompts are in it.
        """
        body: Any = model.body
        parameters = list(model.module.parameters())
        floats = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in parameters)
        modules = [model.module.get_submodule(layer.name) for layer in model.anatomy.layers]
        parts = ("embed_tokens", "norm", "rotary_emb")
        if model.streamed is not None:  # it would read all layers' weights by their addresses
            return None
        if not floats or len(modules) != len(cache.layers) or library() is None:
            return None
        if not all(hasattr(body, part) for part in parts):
            return None
        layers = []
        for module, kept in zip(modules, cache.layers, strict=True):
            layer = _layer(module, kept, copies)
            if layer is None:
                return None
            layers.append(layer)
        return cls(model, shape, cache, Stack(layers), copies)

    def run(self, step: Step) -> Tensor:
        """Compute one more token of each text; return the logits, `[N, V]`."""
        hidden_ND = self._body.embed_tokens(step.ids_T[None])[0].contiguous()
        angles = {kind: self._angles(hidden_ND, step, kind) for kind in set(self._kinds)}
        seen = [
            Seen(*angles[kind], *step.ranges(kept.window))
            for kind, kept in zip(self._kinds, self._cache.layers, strict=True)
        ]
        self._stack.run(hidden_ND, step.places_T, seen)
        hidden_ND = self._body.norm(hidden_ND)
        if self._output is None:
            return logits(self._model, hidden_ND, self._shape)
        return shaped(linear_product(hidden_ND, self._output), self._shape)

    def _angles(self, hidden_ND: Tensor, step: Step, kind: str) -> tuple[Tensor, Tensor]:
        more = (kind,) if kind else ()
        cos, sin = self._body.rotary_emb(hidden_ND[None], step.positions_T[None], *more)
        return cos[0].contiguous(), sin[0].contiguous()


def _kinds(body: Any, count: int) -> list[str]:
    """The name of each layer's rotation, where a body has several; else empty."""
    if "layer_type" in inspect.signature(body.rotary_emb.forward).parameters:
        return list(body.config.layer_types)
    return [""] * count


def _layer(module: Any, kept: KeptLayer, copies: Copies) -> Layer | None:
    attention, mlp = getattr(module, "self_attn", None), getattr(module, "mlp", None)
    names = [(attention, n) for n in ("q_proj", "k_proj", "v_proj", "o_proj")]
    names += [(mlp, n) for n in ("gate_proj", "up_proj", "down_proj")]
    linears = [_linear(getattr(holder, name, None), copies) for holder, name in names]
    q, k, v, o, gate, up, down = linears
    if q is None or k is None or v is None or o is None:
        return None
    if gate is None or up is None or down is None:
        return None
    act = getattr(getattr(mlp, "config", None), "hidden_act", None)
    act = act or getattr(getattr(mlp, "config", None), "hidden_activation", None)
    sandwich = hasattr(module, "pre_feedforward_layernorm")
    after = "post_attention_layernorm"
    norm_in = _norm(module, "input_layernorm")
    norm_mlp = _norm(module, "pre_feedforward_layernorm" if sandwich else after)
    if act not in _GELU or norm_in is None or norm_mlp is None:
        return None
    if kept.keys_PJK.shape != kept.values_PJK.shape:
        return None
    if not len(k.weight_OD) == len(v.weight_OD) == kept.keys_PJK[0].numel():
        return None
    return Layer(
        norm_in_D=norm_in,
        norm_after_attention_D=_norm(module, after) if sandwich else None,
        norm_mlp_D=norm_mlp,
        norm_after_mlp_D=_norm(module, "post_feedforward_layernorm") if sandwich else None,
        norm_q_K=_norm(attention, "q_norm"),
        norm_k_K=_norm(attention, "k_norm"),
        q=q,
        k=k,
        v=v,
        o=o,
        gate=gate,
        up=up,
        down=down,
        keys_PJK=kept.keys_PJK,
        values_PJK=kept.values_PJK,
        gelu=_GELU[act],
        epsilon=_epsilon(module.input_layernorm),
        scale=kept.scale,
    )


def _linear(layer: Any, copies: Copies) -> Linear | None:
    base = getattr(layer, "base_layer", layer)
    if type(base) is not nn.Linear or is_wrapped(base.weight) or not base.weight.is_contiguous():
        return None
    weight, bias = copies.of(base.weight), None if base.bias is None else base.bias.detach()
    if layer is base:
        return Linear(weight, bias)
    factors = getattr(layer, "lora_A", None)  # AdaLoRA's are bare, and have a third between them
    ordinary = isinstance(factors, nn.ModuleDict)
    plain = ordinary and not layer.merged and len(layer.active_adapters) == 1
    if not plain or getattr(layer, "lora_variant", None) or any(layer.lora_bias.values()):
        return None
    (name,) = layer.active_adapters
    if layer.disable_adapters or name not in layer.lora_A:
        return Linear(weight, bias)
    a, b = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
    if not (a.is_contiguous() and b.is_contiguous()):
        return None
    return Linear(weight, bias, a, b, float(layer.scaling[name]))


def _norm(holder: Any, name: str) -> Tensor | None:
    """The factor of a root-mean-square norm (some families keep it less one), or None."""
    module = getattr(holder, name, None)
    weight = getattr(module, "weight", None)
    if module is None or weight is None or "RMSNorm" not in type(module).__name__:
        return None
    made_up = torch.linspace(-1.0, 2.0, weight.numel())[None]
    for offset in (0.0, 1.0):
        factor: Tensor = (weight.detach() + offset).contiguous()
        if torch.allclose(rms_norm(made_up, factor, _epsilon(module)), module(made_up), rtol=1e-4):
            return factor
    return None


def _epsilon(norm: Any) -> float:
    epsilon: Any = getattr(norm, "variance_epsilon", None)
    return float(getattr(norm, "eps", 0.0) if epsilon is None else epsilon)
