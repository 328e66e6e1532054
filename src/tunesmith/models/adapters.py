"""Adapters that PEFT makes on a loaded model: which linear maps get one, and putting them there.

    Model, targets ──choose_targets──> names of linear maps ──attach(config)──> Model with `peft`

Targets are names as a user knows them (`q_proj`), looked up in the model's anatomy, so that every
family is served by the same words. What PEFT cannot adapt is refused here, before any training. It
knows no technique: a configuration of PEFT comes in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import RecipeError, first_line, suggest
from tunesmith.models.anatomy.blocks import attention_of
from tunesmith.models.heads import HEADS, FeatureModel
from tunesmith.models.learning import freeze, learn, widen
from tunesmith.models.model import Model
from tunesmith.models.quiet import quiet
from tunesmith.models.virtual_tokens import ADAPTER, read_virtual_tokens


def choose_targets(model: Model, targets: Literal["all-linear"] | Sequence[str]) -> list[str]:
    """Return the full names of the linear maps of the layers that `targets` names.

    Raises:
        RecipeError: a target is not a linear map of this model's layers.
    """
    linears = [name for layer in model.anatomy.layers for name in layer.linears]
    if targets == "all-linear":
        return linears
    chosen: set[str] = set()
    for target in targets:
        named = {name for name in linears if f".{name}".endswith(f".{target}")}
        if not named:
            known = {name.rsplit(".", 1)[-1] for name in linears}
            raise RecipeError(
                f"The model has no linear map called {target!r} in its layers.",
                where="technique.targets",
                fix=suggest(target, known),
            )
        chosen |= named
    return [name for name in linears if name in chosen]


def choose_experts(model: Model, targets: Literal["all-linear"] | Sequence[str]) -> dict[str, str]:
    """Return the stacked weights of experts that `targets` names, and which target names each.

    A mixture of experts keeps one parameter `[experts, out, in]` for all its experts, which is no
    module of its own. "all-linear" names none of them.
    """
    stacked = [
        name
        for layer in model.anatomy.layers
        for name, parameter in model.module.get_submodule(layer.name).named_parameters(layer.name)
        if parameter.ndim == 3
    ]
    named = () if targets == "all-linear" else targets
    found = ((name, t) for name in stacked for t in named if f".{name}".endswith(f".{t}"))
    return {within_adapted(model, name): t for name, t in found}


def short_names(model: Model, wanted: Sequence[str]) -> list[str]:
    """Return the shortest endings of names that pick `wanted` and nothing else in the model.

    Readers of adapters expect `q_proj`; BERT's `dense` would also pick its pooler's.
    """
    others = {name for name, _ in model.module.named_modules()} - set(wanted)
    short: dict[str, None] = {}
    for name in wanted:
        parts = name.split(".")
        endings = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        short[next(e for e in endings if not any(f".{o}".endswith(f".{e}") for o in others))] = None
    return list(short)


def placed(model: Model, wanted: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a configuration that say where adapters stand and on which base."""
    adapted = [model.module.get_submodule(name) for name in wanted]
    return {
        **with_head(model),
        "target_modules": short_names(model, wanted),
        "fan_in_fan_out": any(isinstance(part, Conv1D) for part in adapted),
    }


def with_head(model: Model) -> dict[str, Any]:
    """Return the fields of a configuration that say which base it is for, and which head learns."""
    base, revision = model.source.reference
    ours = isinstance(model.module, FeatureModel)  # it learns beside, where PEFT does not see it
    return {
        "task_type": HEADS[model.head].peft_task,
        "base_model_name_or_path": base,
        "revision": revision,
        "modules_to_save": None if ours else list(model.anatomy.task_modules) or None,
    }


def of_embeddings(model: Model) -> dict[str, Any]:
    """Return the sizes of vectors that are read like embeddings."""
    table: Any = model.module.get_submodule(model.anatomy.embeddings)
    return {
        "token_dim": table.weight.shape[1],
        "num_layers": len(model.anatomy.layers),
        "num_attention_heads": 1,
    }


def of_keys(model: Model) -> dict[str, Any]:
    """Return the sizes of what stands before the keys and values of each layer.

    Raises:
        RecipeError: the shapes do not say how many keys a token has.
    """
    layers = model.anatomy.layers
    kinds = {
        (attention.key_value_heads, attention.head_size)
        for number, layer in enumerate(layers)
        for attention in attention_of(model.module, layer, number)
    }
    heads, size = kinds.pop() if len(kinds) == 1 else (None, None)
    if heads is None or size is None:
        raise RecipeError(
            f"The layers of this {model.anatomy.family} model do not all keep the same keys.",
            where="technique",
            fix="Choose prompt_tuning, or an adapter such as lora.",
        )
    return {"token_dim": heads * size, "num_layers": len(layers), "num_attention_heads": heads}


def attach(model: Model, config: Any) -> None:
    """Freeze the model and add an adapter in place; `model.peft` saves and switches it.

    What learns is float32. Random values are drawn from the global generator.

    Raises:
        RecipeError: PEFT has no such adapter for these linear maps; says why.
    """
    from peft import get_peft_model

    freeze(model.module)
    if isinstance(model.module, FeatureModel) and config.is_prompt_learning:
        raise RecipeError(
            "Virtual tokens need a head of the model's own family, of which PEFT knows.",
            where="surgery.text_head",
            fix="Leave it out, or choose an adapter such as lora.",
        )
    try:
        with quiet():
            model.peft = get_peft_model(adapted_part(model), config)
            if config.is_prompt_learning:
                read_virtual_tokens(model)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise RecipeError(
            f"PEFT has no {config.peft_type.value} adapter for this {model.anatomy.family} model: "
            f"{first_line(error)}",
            where="technique",
            fix="Choose other targets, or the technique lora.",
        ) from error
    for parameter in model.module.parameters():
        if parameter.requires_grad:
            widen(parameter)
    if isinstance(model.module, FeatureModel):
        learn(model.module.head)


def adapted_part(model: Model) -> Any:
    """Return what PEFT wraps: the module of transformers, without a head of ours."""
    return model.module.body if isinstance(model.module, FeatureModel) else model.module


def within_adapted(model: Model, name: str) -> str:
    """Return what `adapted_part` calls the part that the module calls `name`."""
    return name.removeprefix("body.") if isinstance(model.module, FeatureModel) else name


@contextmanager
def without_adapter(model: Model) -> Iterator[None]:
    """Within, the model answers as it did before it had an adapter."""
    if model.peft is None:
        yield
        return
    with model.peft.disable_adapter():
        yield


def changes_anything(model: Model) -> bool:
    """Whether the adapter makes any difference to the body, tried on a made-up text."""
    learnt = dict(model.module.named_parameters())
    between = [p for name, p in learnt.items() if ".lora_E." in name]  # AdaLoRA's
    maps_up = between or [p for name, p in learnt.items() if ".lora_B." in name]
    if maps_up:  # said by the weights themselves, however little they change
        return any(bool(parameter.any()) for parameter in maps_up)
    vocabulary = model.anatomy.vocab_size
    device = next(model.module.parameters()).device
    ids_1T = torch.arange(vocabulary // 2, min(vocabulary // 2 + 16, vocabulary), device=device)[
        None
    ]
    with torch.no_grad():
        changed = model.hidden(ids_1T)
        with without_adapter(model):
            unchanged = model.hidden(ids_1T)
    return not torch.equal(changed, unchanged)


def rescaled(model: Model) -> tuple[list[str], list[str]]:
    """Return the maps whose values IA3 rescales by default: of attention, and of feed-forward.

    Keys and values (or the one map that gives them with the queries), and the last map of the
    feed-forward part, whose *input* is rescaled.
    """
    attention: list[str] = []
    feed_forward: list[str] = []
    for layer in model.anatomy.layers:
        maps = [name for name in layer.linears if name not in layer.feed_forward]
        attention += [name for name in maps if _gives_keys(name)] or maps
        feed_forward += layer.feed_forward[-1:]
    return attention, feed_forward


def smallest_side(model: Model, wanted: Sequence[str]) -> int:
    """Return the smallest number of inputs or outputs among these linear maps."""
    maps: list[Any] = [model.module.get_submodule(name) for name in wanted]
    return min(int(size) for part in maps for size in part.weight.shape)


def low_rank_values(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every low-rank factor that is in the module now, by its name."""
    return {
        name: parameter.detach().clone()
        for name, parameter in module.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }


@contextmanager
def as_difference(model: Model, initial: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, the adapter is the change since `initial`, of twice the rank: [B, -B0] [A; A0].

    An adapter that began by taking a part out of the base's weights then belongs to the base as it
    is published. Only for saving: the base in memory still lacks that part.
    """
    config = model.peft.peft_config[ADAPTER]
    rank, alpha = config.r, config.lora_alpha
    parameters = {n: p for n, p in model.module.named_parameters() if n in initial}
    trained = {name: parameter.data for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        start = initial[name].to(parameter.device)
        above = ".lora_A." in name
        parameter.data = torch.cat([parameter.data, start if above else -start], 0 if above else 1)
    config.r, config.init_lora_weights = 2 * rank, True
    config.lora_alpha = alpha * (2**0.5 if config.use_rslora else 2)
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = trained[name]
        config.r, config.lora_alpha = rank, alpha


def _gives_keys(name: str) -> bool:
    last = name.rsplit(".", 1)[-1].lower()
    return last.startswith(("k", "v")) or any(
        word in last for word in ("qkv", "query_key_value", "c_attn")
    )
