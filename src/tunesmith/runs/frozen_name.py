"""Under which name the rows of frozen layers lie: a digest of all that they depend on, bit for bit.

    engine, examples ──depends_on──> mapping (kept beside the rows) ──name_of──> name

The weights and the configuration, how many layers, what is kept of a text, number format, kernels,
processor, versions, the token ids, and the batches in which they are computed. Equal names mean
equal bits; whatever else a run is about (its head, its rate, its epochs) is left out, so that other
runs find what one has computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tunesmith.data.batch import Encoded
from tunesmith.engine.engine import Engine
from tunesmith.engine.kept_rows import Per
from tunesmith.models.heads import head_pooling
from tunesmith.runs.hardware import versions
from tunesmith.runs.roofline import identity

SCHEMA_VERSION = 1

_VERSIONS = ("tunesmith", "torch", "transformers")
_OF_CLASSES = ("id2label", "label2id", "num_labels", "problem_type", "finetuning_task")
_NOT_COMPUTED_WITH = ("_name_or_path", "architectures", "dtype", "transformers_version")


def depends_on(
    engine: Engine, weights: str, tokens_per_batch: int, examples: Sequence[Encoded], per: Per
) -> dict[str, Any]:
    """Return what the rows of some examples depend on, as JSON data.

    Args:
        weights: the digest of the frozen layers.
        tokens_per_batch: most tokens of the batches in which rows are computed.
    """
    made_with = versions()
    return {
        "schema_version": SCHEMA_VERSION,
        "layers": engine.prefix.layers,
        "per": per,
        "pooling": head_pooling(engine.model) if per == "document" else None,
        "weights": weights,
        "config": config_of(engine),
        "dtype": str(engine.dtype).removeprefix("torch."),
        "kernels": dict(engine.kernels),
        "packed": engine.packed,
        "tokens_per_batch": tokens_per_batch,
        "machine": identity(torch.device(engine.device.type)),
        "versions": {name: made_with[name] for name in _VERSIONS},
        "ids": _digest(examples),
    }


def name_of(about: Mapping[str, Any]) -> str:
    """Return the name under which rows lie that depend on this."""
    words = json.dumps(about, sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:32]


def text_ids(example: Encoded) -> tuple[int, ...]:
    """Return the token ids of an example's text."""
    return example.streams["text"].ids


def config_of(engine: Engine) -> dict[str, Any]:
    """Return the body's configuration as JSON data, without what it does not compute with."""
    config: Any = engine.model.body.config
    left_out = {*_OF_CLASSES, *_NOT_COMPUTED_WITH}
    stated = {key: value for key, value in config.to_dict().items() if key not in left_out}
    for name in ("_attn_implementation", "_experts_implementation"):  # not in `to_dict`
        stated[name] = getattr(config, name, None)
    words: dict[str, Any] = json.loads(json.dumps(stated, default=str))
    return words


def _digest(examples: Sequence[Encoded]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        ids = np.array(text_ids(example), dtype="<i8")
        digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
    return digest.hexdigest()
