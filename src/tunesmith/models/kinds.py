"""What kind of model a configuration describes, and whether that suits a head.

The kind is read from transformers' own tables of architectures, so that a new family needs no
change here. A model that does not suit is refused with the reason and a better choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers.models.auto import modeling_auto as tables

from tunesmith.errors import ModelError

DECODER, ENCODER, ENCODER_DECODER = "decoder", "encoder", "encoder-decoder"

_OTHER_SENSES = {
    "image": (
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        "MODEL_FOR_IMAGE_MAPPING_NAMES",
        "MODEL_FOR_BACKBONE_MAPPING_NAMES",
        "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
        "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
        "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES",
        "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES",
    ),
    "image-text": (
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
        "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        "MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES",
    ),
    "audio": (
        "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
        "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
        "MODEL_FOR_CTC_MAPPING_NAMES",
        "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES",
    ),
}

_SUITS = {
    "causal_lm": (DECODER,),
    "seq2seq_lm": (ENCODER_DECODER,),
    "classification": (DECODER, ENCODER),
    "masked_lm": (ENCODER,),
    "multi_label": (DECODER, ENCODER),
    "regression": (DECODER, ENCODER),
    "tagging": (DECODER, ENCODER),
    "extraction": (DECODER, ENCODER),
    "embedding": (DECODER, ENCODER),
    "features": (DECODER, ENCODER),
}

_NEEDS = {
    "causal_lm": "This task learns to write text, which needs a decoder",
    "seq2seq_lm": "This task turns a text into another, which needs an encoder-decoder or a "
    "decoder",
    "classification": "This task reads a text and names its class, which needs a text model",
    "masked_lm": "This task fills in hidden words, which needs an encoder",
    "multi_label": "This task reads a text and names its classes, which needs a text model",
    "regression": "This task reads a text and says a number, which needs a text model",
    "tagging": "This task reads a text and says what each word is, which needs a text model",
    "extraction": "This task points at a part of a text, which needs a text model",
    "embedding": "This task turns texts into vectors, which needs a text model",
    "features": "This technique turns texts into vectors, which needs a text model",
}

_BETTER = {
    "causal_lm": "Choose a decoder, such as smollm2-135m-instruct.",
    "seq2seq_lm": "Choose an encoder-decoder such as t5-small, or a decoder such as "
    "smollm2-135m-instruct.",
    "classification": "Choose an encoder such as minilm-l6, or a decoder such as "
    "smollm2-135m-instruct.",
    "masked_lm": "Choose an encoder such as distilbert-base-uncased, or the task "
    "language_modeling.",
    "multi_label": "Choose an encoder such as minilm-l6, or a decoder such as "
    "smollm2-135m-instruct.",
    "regression": "Choose an encoder such as minilm-l6, or a decoder such as "
    "smollm2-135m-instruct.",
    "tagging": "Choose an encoder such as minilm-l6, or a decoder such as smollm2-135m-instruct.",
    "extraction": "Choose an encoder such as minilm-l6.",
    "embedding": "Choose an encoder such as minilm-l6.",
    "features": "Choose an encoder such as minilm-l6.",
}


_CLASSES = {
    "tagging": ("MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES", "tokens"),
    "extraction": ("MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES", "parts of a text"),
}
"""Heads that transformers has for some families only, and what they speak of."""


def kind_of(config: Mapping[str, Any]) -> str:
    """Return the kind of model that a `config.json` describes.

    Returns:
        `decoder`, `encoder`, `encoder-decoder`, `image`, `image-text`, `audio` or `unknown`.
    """
    family = config.get("model_type")
    if not isinstance(family, str):
        # timm writes its image models without a model type, but with their picture statistics.
        is_timm = "architecture" in config or "pretrained_cfg" in config
        return "image" if is_timm else "unknown"
    for sense, names in _OTHER_SENSES.items():
        if sense != "image" and any(family in getattr(tables, name, {}) for name in names):
            return sense
    writes = family in tables.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    fills_in = family in tables.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if config.get("is_encoder_decoder") or (
        family in tables.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        and not config.get("is_decoder")
    ):
        return ENCODER_DECODER
    if fills_in and not config.get("is_decoder"):
        return ENCODER
    if writes:
        return DECODER
    if any(family in getattr(tables, name, {}) for name in _OTHER_SENSES["image"]):
        return "image"
    return "unknown"


def _check_class(name: str, family: str, head: str) -> None:
    """Check that transformers has the head for this family, on a body that loads from its files.

    Raises:
        ModelError: it has not, so that nothing could load the result.
    """
    table, speaks_of = _CLASSES.get(head, ("", ""))
    known: Mapping[str, str] = getattr(tables, table) if table else {}
    if table and family not in known:
        raise ModelError(
            f"transformers has no head on {speaks_of} for the family of {name} ({family}), so"
            " nothing could load the result.",
            fix=_BETTER[head],
        )
    if head == "extraction":
        with_head = getattr(transformers, known[family])
        body = getattr(transformers, str(tables.MODEL_MAPPING_NAMES[family]))
        if with_head.base_model_prefix != body.base_model_prefix:
            raise ModelError(
                f"transformers' head on {speaks_of} for the family of {name} ({family}) calls the"
                " body by another name than its files do, so their weights would not be read.",
                fix=_BETTER[head],
            )


def check_fit(name: str, config: Mapping[str, Any], head: str) -> str:
    """Return the kind of the model called `name`, once it suits `head`.

    Args:
        head: a name of `heads.HEADS`.

    Raises:
        ModelError: it does not suit, with the reason and which model would.
    """
    kind = kind_of(config)
    family = config.get("model_type") or config.get("architecture") or "no model type"
    if kind in _SUITS[head]:
        _check_class(name, str(family), head)
        return kind
    is_one = {
        "image": f"is an image model ({family})",
        "image-text": f"reads images beside text ({family})",
        "audio": f"is a sound model ({family})",
        ENCODER: f"is an encoder ({family}): it reads text and writes none",
        DECODER: f"is a decoder ({family}): it reads text from left to right",
        ENCODER_DECODER: f"is an encoder-decoder ({family}): it reads a text and writes another,"
        " which the task seq2seq trains",
    }.get(kind, f"is of a kind that is not known here ({family})")
    raise ModelError(f"{name} {is_one}. {_NEEDS[head]}.", fix=_BETTER[head])
