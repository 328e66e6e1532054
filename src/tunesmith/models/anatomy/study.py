"""Derives the anatomy of a model from the types of its modules and its configuration.

No name of a module is assumed but those that transformers' own accessors give: the base model's
prefix, the input and the output embeddings. Layers are the longest outermost list of modules,
linear maps and norms are known by type. Nothing is run.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError
from tunesmith.models.anatomy.anatomy import Anatomy, Layer
from tunesmith.models.anatomy.positions import POSITION_TABLE
from tunesmith.models.heads import FeatureModel, head_of
from tunesmith.models.kinds import ENCODER_DECODER, kind_of

UNLIMITED = 1 << 30
"""The context length of a model whose positions have no end (ALiBi, recurrent)."""


def study(module: nn.Module) -> Anatomy:
    """Return where everything is in `module`, a transformers model or a `FeatureModel`.

    Raises:
        ModelError: it has no token embedding or no repeated layers, so it is no text transformer.
    """
    config: Any = module.config
    text_config = config.get_text_config()
    body_name = _body_name(module)
    body: Any = module.get_submodule(body_name)
    names = {id(part): name for name, part in reversed(list(module.named_modules()))}
    embeddings = _embeddings(module, _input_embeddings(body))
    kind = kind_of(config.to_dict())
    encoder, decoder = _two_stacks(module, names) if kind == ENCODER_DECODER else (None, None)
    layers = _layers(module, body_name)
    if encoder and decoder:
        layers = (*_layers(module, encoder), *_layers(module, decoder))
    if embeddings is None or not layers:
        raise ModelError(
            f"No token embedding or no repeated layers were found in this {config.model_type} "
            "model.",
            fix="Choose a text transformer, such as smollm2-135m-instruct or minilm-l6.",
        )
    output = None if isinstance(module, FeatureModel) else _output_name(module, names)
    embedding: Any = module.get_submodule(embeddings)
    tied = output is not None and module.get_submodule(output).weight is embedding.weight
    return Anatomy(
        family=config.model_type,
        kind=kind,
        body=body_name,
        embeddings=embeddings,
        layers=layers,
        norms=tuple(name for name, part in module.named_modules() if _is_norm(part)),
        output=output,
        tied=tied,
        # What stands before a vocabulary layer belongs to the model, not to a task.
        head=() if head_of(module) == "masked_lm" else _head(module, body_name, output),
        pooler=_pooler(module),
        # OPT-350m narrows its hidden states behind the last layer.
        hidden_size=getattr(text_config, "word_embed_proj_dim", None) or text_config.hidden_size,
        vocab_size=embedding.weight.shape[0],
        context_length=_context_length(text_config, module),
        position_norms=_position_norms(module),
        encoder=encoder,
        decoder=decoder,
    )


def is_linear(part: nn.Module) -> bool:
    """Whether `part` is a linear map: `nn.Linear`, GPT-2's transposed one, or a packed one.

    GPTQ and AWQ keep a map's weight as whole numbers, `qweight`, in classes of their own.
    """
    return isinstance(part, nn.Linear | Conv1D) or hasattr(part, "qweight")


def _body_name(module: nn.Module) -> str:
    if isinstance(module, FeatureModel):
        return "body"
    prefix: str = getattr(module, "base_model_prefix", "")
    return prefix if prefix and hasattr(module, prefix) else ""


def _embeddings(module: nn.Module, looked_up: nn.Module | None) -> str | None:
    """Return the table's first name: encoders and decoders may have the same one as their own."""
    if not isinstance(looked_up, nn.Embedding):
        return None
    tables = ((name, p) for name, p in module.named_modules() if isinstance(p, nn.Embedding))
    first: str = next(name for name, table in tables if table.weight is looked_up.weight)
    return first


def _two_stacks(module: Any, names: dict[int, str]) -> tuple[str | None, str | None]:
    """Return the names of the stack that reads and of the one that writes, where there are two."""
    encoder, decoder = names.get(id(module.get_encoder())), names.get(id(module.get_decoder()))
    return (encoder, decoder) if encoder and decoder else (None, None)


def _input_embeddings(body: Any) -> nn.Module | None:
    try:
        found: nn.Module | None = body.get_input_embeddings()
    except NotImplementedError:
        return None
    return found


def _output_name(module: Any, names: dict[int, str]) -> str | None:
    output: nn.Module | None = module.get_output_embeddings()
    return None if output is None else names.get(id(output))


def stacks(module: nn.Module, body: str = "") -> dict[str, tuple[Layer, ...]]:
    """Return the layers of each outermost list of modules with weights, by the list's name.

    A decoder or an encoder has one; an encoder-decoder has two, an image network its stages.
    """
    lists: dict[str, nn.ModuleList] = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.ModuleList) and (not body or name.startswith(f"{body}."))
    }
    return {
        name: tuple(_layer(f"{name}.{i}", part) for i, part in enumerate(found))
        for name, found in lists.items()
        if not any(name.startswith(f"{other}.") for other in lists)
        and any(True for _ in found.parameters())
    }


def _layers(module: nn.Module, body: str) -> tuple[Layer, ...]:
    return max(stacks(module, body).values(), key=len, default=())


def _layer(name: str, layer: nn.Module) -> Layer:
    parts = list(layer.named_modules())
    return Layer(
        name=name,
        linears=tuple(f"{name}.{inner}" for inner, part in parts if is_linear(part)),
        norms=tuple(f"{name}.{inner}" for inner, part in parts if _is_norm(part)),
        attentions=tuple(f"{name}.{inner}" for inner in _attentions(layer)),
    )


def _attentions(layer: nn.Module) -> list[str]:
    """Outermost parts of a layer whose type says that they attend, and that have weights."""
    found: list[str] = []
    for name, part in layer.named_modules():
        attends = "Attention" in type(part).__name__ or "Attn" in type(part).__name__
        if name and attends and not any(name.startswith(f"{other}.") for other in found):
            found.append(name)
    return [name for name in found if _has_weights(layer.get_submodule(name))]


def _has_weights(part: nn.Module) -> bool:
    """Whether a part holds weights; those of packed maps are no parameters."""
    return any(True for _ in part.parameters()) or any(map(is_linear, part.modules()))


def _is_norm(part: nn.Module) -> bool:
    is_leaf = not any(True for _ in part.children())
    return isinstance(part, nn.LayerNorm) or (is_leaf and "Norm" in type(part).__name__)


def _position_norms(module: nn.Module) -> tuple[str, ...]:
    """The norms of a part that itself holds a table of relative positions for all its layers."""
    return tuple(
        f"{name}.{inner}" if name else inner
        for name, part in module.named_modules()
        if POSITION_TABLE in dict(part.named_children())
        for inner, child in part.named_children()
        if _is_norm(child)
    )


def _head(module: nn.Module, body: str, output: str | None) -> tuple[str, ...]:
    """Top-level parts with parameters that are neither the body nor the vocabulary layer."""
    if not body:
        return ()
    return tuple(
        name
        for name, part in module.named_children()
        if name != body
        and name != (output or "").split(".")[0]
        and any(True for _ in part.parameters())
    )


def _pooler(module: nn.Module) -> str | None:
    found: list[str] = [
        name
        for name, part in module.named_modules()
        if name.split(".")[-1] == "pooler" and any(True for _ in part.parameters())
    ]
    return found[0] if found else None


def _context_length(config: Any, module: nn.Module) -> int:
    length = getattr(config, "max_position_embeddings", None)
    return UNLIMITED if not length or length < 0 else int(length) - _position_offset(module)


def _position_offset(module: nn.Module) -> int:
    """RoBERTa and its kin count positions from the padding index + 1, outside the embedding."""
    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            return 0 if part.padding_idx is None else part.padding_idx + 1
    return 0
