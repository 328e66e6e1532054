"""How a model knows the order of its tokens: rotary, learned, relative, ALiBi, or not at all.

    module ──positions_of──> Positions

Found by the modules that carry it; the parameters of rotary positions come from the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Positions:
    """How order is known.

    Attributes:
        kind: `rotary`, `learned`, `relative`, `alibi`, `sinusoidal` or `none`; several are joined
            with a plus.
        theta: base of the rotary angles (several where layers differ, the largest is given).
        scaling: how rotary positions are stretched (`linear`, `dynamic`, `yarn` …); None: not.
        factor: by how much.
        learned: rows of the table of learned positions.
    """

    kind: str
    theta: float | None = None
    scaling: str | None = None
    factor: float | None = None
    learned: int | None = None


def positions_of(module: nn.Module) -> Positions:
    """Return how `module`, a transformers model, knows the order of tokens."""
    config: Any = module.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds: list[str] = []
    types = {type(part).__name__ for part in module.modules()}
    if any("RotaryEmb" in name for name in types):
        kinds.append("rotary")
    table = learned_table(module)
    sinusoidal = any("Sinusoidal" in name for name in types) or getattr(
        config, "sinusoidal_pos_embds", False
    )
    if sinusoidal:
        kinds.append("sinusoidal")
    elif table is not None:
        kinds.append("learned")
    if any(name.rsplit(".", 1)[-1] in _RELATIVE for name, _ in module.named_modules()):
        kinds.append("relative")
    if uses_alibi(module, config):
        kinds = [kind for kind in kinds if kind != "rotary"] + ["alibi"]
    rope = rotary_parameters(config) if "rotary" in kinds else []
    scaled = next((r for r in rope if r.get("rope_type", "default") != "default"), {})
    return Positions(
        kind=" + ".join(kinds) or "none",
        theta=max((float(r["rope_theta"]) for r in rope if r.get("rope_theta")), default=None),
        scaling=scaled.get("rope_type"),
        factor=scaled.get("factor"),
        learned=None if table is None or sinusoidal else table.num_embeddings,
    )


POSITION_TABLE = "rel_embeddings"
"""The name of a table of relative positions that all layers read (DeBERTa)."""
_RELATIVE = ("relative_attention_bias", POSITION_TABLE)


def learned_table(module: nn.Module) -> nn.Embedding | None:
    """Return the embedding of positions, where there is one."""
    for name, part in module.named_modules():
        last = name.rsplit(".", 1)[-1]
        if isinstance(part, nn.Embedding) and (
            last == "wpe" or last.startswith(("pos", "embed_pos"))
        ):
            return part
    return None


def uses_alibi(module: nn.Module, config: Any) -> bool:
    """Return whether attention is biased by distance (ALiBi)."""
    stated = getattr(config, "alibi", None)
    if stated is None:
        stated = getattr(getattr(config, "attn_config", None), "alibi", None)
    if stated is None:
        stated = any(hasattr(part, "build_alibi_tensor") for part in module.modules())
    return bool(stated)


def rotary_parameters(config: Any) -> list[Mapping[str, Any]]:
    """Return the rotary parameters: one mapping, or one for each kind of layer (Gemma 3)."""
    stated = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in stated.values() if isinstance(value, Mapping)]
    return nested or ([stated] if stated else [])
