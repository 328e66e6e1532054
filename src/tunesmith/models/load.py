"""From files to a `Model`: the module with the head that the task needs, judged fit and whole.

    Resolved ──kind fits the head?──> transformers loads ──all weights there and finite?──> Model

A new classification head is drawn inside `seeded`, so that it depends on the seed alone. Every
pre-trained weight must have been found and be finite; what transformers would warn of is an error
here. A module comes in eval mode, without key/value cache, in the precision asked for. It knows
no task, technique or recipe; whether documents can be packed is probed by the engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from tunesmith.errors import ModelError
from tunesmith.models.anatomy import study
from tunesmith.models.heads import FeatureHead, FeatureModel, Pooling, pool_documents
from tunesmith.models.kinds import ENCODER, check_fit
from tunesmith.models.model import Model
from tunesmith.models.quiet import quiet
from tunesmith.models.resolve import Resolved
from tunesmith.models.seeded import seeded

_CLASSES: dict[str, Any] = {
    "causal_lm": AutoModelForCausalLM,
    "classification": AutoModelForSequenceClassification,
    "features": AutoModel,
}


def load_model(
    source: Resolved,
    *,
    head: str,
    labels: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Model:
    """Load the model at `source` with a head.

    Args:
        head: `causal_lm`, `classification` (one logit a label), or `features` (one vector of a
            document, and a linear map of it to the labels that starts at zero).
        labels: names of the classes, in order of their index.
        dtype: precision of the weights.
        seed: from which a new head is drawn.

    Raises:
        ModelError: the model does not suit the head, or its files are incomplete or broken.
    """
    config = read_config(source)
    kind = check_fit(source.name, config, head)
    tokenizer = load_tokenizer(source)
    module, missing = _load_module(source, head, labels, dtype, seed)
    if head == "features":
        pooling: Pooling = "mean" if kind == ENCODER else "last"
        outputs = FeatureHead(module.config.get_text_config().hidden_size, len(labels), pooling)
        module.config.id2label, module.config.label2id = _label_maps(labels)
        module = FeatureModel(module, outputs)
    model = Model(module, tokenizer, study(module), source)
    fresh = {*model.anatomy.head, *_texts(model.anatomy.pooler)} - {
        "",
        *_texts(model.anatomy.output),
    }
    _check_complete(source, missing, fresh if head != "causal_lm" else set())
    if head == "classification":
        if not _keeps_head(config, labels):
            _draw_head(model, seed)
        _give_padding(model)
    _check_finite(source, module)
    _check_vocabulary(model)
    module.config.use_cache = False
    module.eval()
    if head == "classification":
        _check_head(model)
    return model


def read_config(source: Resolved) -> dict[str, Any]:
    """Return the model's `config.json`.

    Raises:
        ModelError: it is not JSON.
    """
    file = source.path / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The model's configuration cannot be read: {error}",
            where=str(file),
            fix="Fetch or save the model again.",
        ) from error
    return config


def load_tokenizer(source: Resolved) -> Any:
    """Return the model's tokenizer.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(source.path, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(
            f"The tokenizer of {source.name} cannot be read: {_first_line(error)}",
            where=str(source.path),
            fix="The folder needs the tokenizer's files (tokenizer.json, tokenizer_config.json) "
            "beside the weights.",
        ) from error


def _load_module(
    source: Resolved, head: str, labels: Sequence[str], dtype: torch.dtype, seed: int
) -> tuple[Any, set[str]]:
    """Return the module and the names of the parameters that the files do not hold."""
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
    if head == "classification":
        id2label, label2id = _label_maps(labels)
        options |= {
            "id2label": id2label,
            "label2id": label2id,
            "num_labels": len(labels),
            "problem_type": "single_label_classification",
            "ignore_mismatched_sizes": True,
        }
    try:
        with quiet(), seeded(seed):
            module, report = _CLASSES[head].from_pretrained(
                source.path, output_loading_info=True, **options
            )
    except Exception as error:  # readers of damaged files raise whatever they like
        raise ModelError(
            f"The weights of {source.name} cannot be loaded: {_first_line(error)}",
            where=str(source.path),
            fix="Fetch or save the model again; a model that brings its own code is not run.",
        ) from error
    mismatched = {item[0] for item in report["mismatched_keys"]}
    _check_layers(source, module, report["unexpected_keys"])
    return module, set(report["missing_keys"]) | mismatched


def _label_maps(labels: Sequence[str]) -> tuple[dict[int, str], dict[str, int]]:
    return dict(enumerate(labels)), {label: index for index, label in enumerate(labels)}


def _check_complete(source: Resolved, missing: set[str], fresh: set[str]) -> None:
    lost = sorted(k for k in missing if not any(k.startswith(f"{part}.") for part in fresh))
    if lost:
        raise ModelError(
            f"{len(lost)} weights of {source.name} are missing or of another shape than its "
            f"configuration says, such as {lost[0]}.",
            where=str(source.path),
            fix="Fetch or save the model again.",
        )


def _check_layers(source: Resolved, module: Any, unexpected: Iterable[str]) -> None:
    """Weights of layers that the configuration does not have mean that the two do not belong."""
    list_name = study(module).layers[0].name.rsplit(".", 1)[0]
    tail = list_name.split(".", 1)[-1]
    surplus = sorted(key for key in unexpected if f"{tail}." in f".{key}" and _numbered(key, tail))
    counted = len(study(module).layers)
    beyond = [key for key in surplus if _numbered(key, tail) > counted]
    if beyond:
        raise ModelError(
            f"The weights of {source.name} hold more layers than its configuration, which says "
            f"{counted}: {beyond[0]}, for example.",
            where=str(source.path),
            fix="Fetch or save the model again.",
        )


def _numbered(key: str, list_name: str) -> int:
    """Return 1 + the layer's number in `key`, or 0 where it names none."""
    number = key.partition(f"{list_name}.")[2].split(".")[0]
    return int(number) + 1 if number.isdigit() else 0


def _keeps_head(config: dict[str, Any], labels: Sequence[str]) -> bool:
    """Whether the files hold a classifier of these very labels already."""
    names = config.get("id2label") or {}
    architectures = config.get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification") and [
        names.get(str(index)) for index in range(len(names))
    ] == list(labels)


def _draw_head(model: Model, seed: int) -> None:
    """Draw the head anew from the seed alone, as the family itself does."""
    module: Any = model.module
    with seeded(seed), torch.no_grad():
        for name in model.anatomy.head:
            for part in module.get_submodule(name).modules():
                for parameter in part.parameters(recurse=False):
                    parameter._is_hf_initialized = False
                module._init_weights(part)


def _give_padding(model: Model) -> None:
    """Name a padding token where there is none: packing needs none, other readers do."""
    config: Any = model.module.config
    if model.tokenizer.pad_token_id is None:
        model.tokenizer.pad_token = model.tokenizer.eos_token
    if config.get_text_config().pad_token_id is None:
        config.get_text_config().pad_token_id = model.tokenizer.pad_token_id


def _check_finite(source: Resolved, module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(
                f"The weights of {source.name} are not all finite numbers: {name}.",
                where=str(source.path),
                fix="Fetch the model again, or choose another precision or model.",
            )


def _check_vocabulary(model: Model) -> None:
    if len(model.tokenizer) > model.anatomy.vocab_size:
        raise ModelError(
            f"The tokenizer of {model.source.name} has {len(model.tokenizer)} tokens, the model "
            f"only {model.anatomy.vocab_size}.",
            where=str(model.source.path),
            fix="Tokenizer and weights do not belong together: fetch or save them again.",
        )


def _check_head(model: Model) -> None:
    """Compare our pooling with the family's own on one document."""
    ids = torch.arange(5).remainder(model.anatomy.vocab_size)[None] + 3
    with torch.no_grad():
        stock_1C = model.module(input_ids=ids).logits.float()
        hidden_TD = model.body(input_ids=ids)[0][0]
        ours_1C = pool_documents(model, hidden_TD, torch.tensor([0, ids.shape[1]]))
    if not torch.allclose(stock_1C, ours_1C, rtol=2e-2, atol=2e-2):
        raise ModelError(
            f"The classification head of the family {model.anatomy.family} is not known here.",
            fix="Choose another encoder, such as minilm-l6, or a decoder.",
        )


def _texts(name: str | None) -> tuple[str, ...]:
    return () if name is None else (name,)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
