"""Writes a model in the format that its own ecosystem loads, and proves that it does.

    full weights       config.json, model.safetensors, tokenizer       transformers
    adapter            adapter_config.json, adapter_model.safetensors  PEFT
    features + linear  modules.json, 1_Pooling, 2_Dense                sentence-transformers

Each folder also holds the tokenizer with the chat template that trained, the generation
configuration with the stop tokens that trained, and `tunesmith.json`, which says what it was made
from. It is filled aside and renamed. `verify_saved` loads it with the reader that it is meant for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tunesmith.errors import RunError
from tunesmith.models.atomic import written_aside
from tunesmith.models.heads import FeatureModel
from tunesmith.models.model import Model
from tunesmith.models.quiet import quiet

NOTES = "tunesmith.json"


def set_stop_tokens(model: Model, stop_ids: Sequence[int]) -> None:
    """Let whoever loads the result stop generation where training taught the model to stop."""
    module: Any = model.module
    module.generation_config.eos_token_id = list(stop_ids)
    if module.generation_config.pad_token_id is None:
        module.generation_config.pad_token_id = (
            model.tokenizer.pad_token_id
            if model.tokenizer.pad_token_id is not None
            else stop_ids[0]
        )


def save_full(model: Model, folder: Path) -> None:
    """Write all weights as transformers reads them.

    Raises:
        RunError: a weight is not finite, or the folder cannot be written.
    """
    module: Any = model.module
    _check_finite(model)
    with written_aside(folder) as aside, quiet(), _with_cache(module):
        module.save_pretrained(aside)
        _save_beside(model, aside, "full")


def save_adapter(model: Model, folder: Path) -> None:
    """Write the adapters, and heads that learnt with them, as PEFT reads them.

    Raises:
        RunError: a weight is not finite, or the folder cannot be written.
    """
    module: Any = model.module
    _check_finite(model)
    with written_aside(folder) as aside, quiet(), _with_cache(module):
        model.peft.save_pretrained(aside, save_embedding_layers=False)
        if hasattr(module, "generation_config"):
            module.generation_config.save_pretrained(aside)
        (aside / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        _save_beside(model, aside, "adapter")


def save_features(model: Model, folder: Path) -> None:
    """Write body, pooling and linear map in the layout of sentence-transformers.

    `SentenceTransformer(folder).encode(texts)` then gives the logits of the classes.

    Raises:
        RunError: a weight is not finite, or the folder cannot be written.
    """
    module = model.module
    assert isinstance(module, FeatureModel)
    _check_finite(model)
    body: Any = module.body
    with written_aside(folder) as aside, quiet(), _with_cache(body):
        body.save_pretrained(aside)
        _write_layout(model, module, aside)
        _save_beside(model, aside, "features")


def verify_saved(model: Model, folder: Path, prompt_ids: Sequence[int]) -> float | None:
    """Load `folder` with the reader that it is meant for and compare it with `model`.

    Args:
        prompt_ids: a fixed input, at least one token.

    Returns:
        The largest difference of a logit, in logits; None where that reader is not installed.

    Raises:
        RunError: the reader cannot load it, or gives something that is not a number.
    """
    module = model.module
    was_training = module.training
    module.eval()
    try:
        # The reader's dropout and the comparison's forward must not depend on the mode we are in.
        with torch.no_grad(), quiet():
            ids_1T = torch.tensor([list(prompt_ids)])
            device = next(module.parameters()).device
            ours = _logits(model, ids_1T.to(device)).float().cpu()
            theirs = _read_back(model, folder, ids_1T)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise RunError(
            f"The saved model cannot be loaded again: {error}",
            where=str(folder),
            fix="Check the disk, then save it again from the last checkpoint.",
        ) from error
    finally:
        module.train(was_training)
    if theirs is None:
        return None
    difference = float((ours - theirs.float()).abs().max())
    if difference != difference:
        raise RunError(
            "The saved model gives logits that are not numbers.",
            where=str(folder),
            fix="Train with a lower learning rate.",
        )
    return difference


def _logits(model: Model, ids_1T: Tensor) -> Tensor:
    if isinstance(model.module, FeatureModel):
        hidden_TD = model.module.body(input_ids=ids_1T)[0][0]
        cu_seqlens = torch.tensor([0, ids_1T.shape[1]], device=ids_1T.device)
        outputs_BC: Tensor = model.module.head(hidden_TD, cu_seqlens)
        return outputs_BC
    logits: Tensor = model.module(input_ids=ids_1T, use_cache=False).logits
    return logits


def _read_back(model: Model, folder: Path, ids_1T: Tensor) -> Tensor | None:
    dtype = next(model.body.parameters()).dtype
    reader: Any
    if isinstance(model.module, FeatureModel):
        if find_spec("sentence_transformers") is None:
            return None
        from sentence_transformers import SentenceTransformer

        reader = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        features = {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}
        embedding: Tensor = reader.eval()(features)["sentence_embedding"]
        return embedding
    # PEFT takes the number of classes from its caller: the base's own files do not know it.
    config: Any = model.module.config
    classes = {"num_labels": config.num_labels} if model.anatomy.head else {}
    reader = _reader_class(model).from_pretrained(folder, dtype=dtype, **classes)
    logits: Tensor = reader.eval()(input_ids=ids_1T).logits
    return logits


def _reader_class(model: Model) -> Any:
    import peft
    import transformers

    ending = "ForSequenceClassification" if model.anatomy.head else "ForCausalLM"
    if model.peft is None:
        return getattr(transformers, f"AutoModel{ending}")
    return getattr(peft, f"AutoPeftModel{ending}")


def _save_beside(model: Model, folder: Path, made_as: str) -> None:
    model.tokenizer.save_pretrained(folder)
    module: Any = model.module
    labels = module.config.id2label or {} if model.anatomy.head else {}
    notes = {
        "schema_version": 1,
        "saved_as": made_as,
        "head": _head_name(model),
        "labels": [labels[index] for index in sorted(labels)],
        "base": {
            "name": model.source.name,
            "fingerprint": model.source.fingerprint,
            "revision": model.source.revision,
        },
    }
    text = json.dumps(notes, indent=2, ensure_ascii=False) + "\n"
    (folder / NOTES).write_text(text, encoding="utf-8")


def _head_name(model: Model) -> str:
    if isinstance(model.module, FeatureModel):
        return "features"
    return "classification" if model.anatomy.head else "causal_lm"


@contextmanager
def _with_cache(module: Any) -> Iterator[None]:
    """Training runs without key/value cache; what is saved should generate with one."""
    before = module.config.use_cache
    module.config.use_cache = True
    try:
        yield
    finally:
        module.config.use_cache = before


def _check_finite(model: Model) -> None:
    for name, parameter in model.module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise RunError(
                f"The weights to save are not all finite numbers: {name}.",
                fix="Train with a lower learning rate, from the last good checkpoint.",
            )


def _write_layout(model: Model, module: FeatureModel, folder: Path) -> None:
    """The files that sentence-transformers adds, in the form that all its versions read."""
    size = model.anatomy.hidden_size
    length = min(model.anatomy.context_length, model.tokenizer.model_max_length)
    parts = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
    _json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(parts)
        ],
    )
    _json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    pooling = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
    _json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": size}
        | {f"pooling_mode_{mode}": key == module.head.pooling for key, mode in pooling.items()},
    )
    linear = module.head.linear
    _json(
        folder / "2_Dense" / "config.json",
        {
            "in_features": linear.in_features,
            "out_features": linear.out_features,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    weights = {f"linear.{k}": v.detach().cpu() for k, v in linear.state_dict().items()}
    save_file(weights, folder / "2_Dense" / "model.safetensors")


def _json(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
