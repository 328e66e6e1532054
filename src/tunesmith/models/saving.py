"""Writes a model in the format that its own ecosystem loads, and proves that it does.

    full weights       config.json, model.safetensors, tokenizer       transformers
    adapter            adapter_config.json, adapter_model.safetensors  PEFT
    features + maps    modules.json, 1_Pooling, 2_Dense …              sentence-transformers
    vectors            weights or adapter; modules.json, 1_Pooling     sentence-transformers

Each folder also holds the tokenizer with the chat template that trained, the generation
configuration with the stop tokens that trained, and `tunesmith.json`, which says what it was made
from. It is filled aside and renamed. `verify_saved` loads it with the reader that it is meant for.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tunesmith.errors import RunError
from tunesmith.imports import uncollected
from tunesmith.models.altered import surgery_of
from tunesmith.models.atomic import written_aside
from tunesmith.models.feature_files import dense_folders, write_maps
from tunesmith.models.heads import HEADS, FeatureModel, Pooling, own_outputs, pooled
from tunesmith.models.load import load_result
from tunesmith.models.model import Model
from tunesmith.models.notes import Base, Notes, write_notes
from tunesmith.models.packed_maps import is_wrapped
from tunesmith.models.quantised import is_quantised, reading_options, settle
from tunesmith.models.quiet import quiet

SavedAs = Literal["full", "adapter", "features"]


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
    """Write all weights as transformers reads them; with a head of ours, see `save_features`.

    Where what learnt is float32 and the rest bfloat16, all is written as float32: readers give the
    whole model one precision, and rounding would undo small steps.

    Raises:
        RunError: a weight is not finite, or the folder cannot be written.
    """
    if isinstance(model.module, FeatureModel):
        save_features(model, folder)
        return
    module: Any = model.module
    _check_finite(model)
    with written_aside(folder) as aside, quiet(), _with_cache(module):
        _write_weights(module, aside)
        if model.pooling is not None:
            _write_layout(model, model.pooling, aside)
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
        if model.pooling is not None:
            _write_layout(model, model.pooling, aside)
        if isinstance(module, FeatureModel):
            _write_head(model, aside)
        _save_beside(model, aside, "adapter")


def save_features(model: Model, folder: Path) -> None:
    """Write body, pooling and the maps of the head in the layout of sentence-transformers.

    `SentenceTransformer(folder).encode(texts)` then gives the logits of the classes.

    Raises:
        RunError: a weight is not finite, or the folder cannot be written.
    """
    module = model.module
    assert isinstance(module, FeatureModel)
    _check_finite(model)
    body: Any = module.body
    with written_aside(folder) as aside, quiet(), _with_cache(body):
        _write_weights(body, aside)
        _write_head(model, aside)
        _save_beside(model, aside, "features")


def verify_saved(model: Model, folder: Path, prompt_ids: Sequence[int]) -> float | None:
    """Load `folder` with the reader that it is meant for and compare it with `model`.

    Args:
        prompt_ids: a fixed input, at least one token.

    Returns:
        The largest difference of a logit, as a share of the largest logit where that is above 1;
        None where that reader is not installed.

    Raises:
        RunError: the reader cannot load it, or gives something that is not a number.
    """
    module = model.module
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), quiet(), _computing(model):
            ids_1T = torch.tensor([list(prompt_ids)])
            device = next(module.parameters()).device
            ours = _logits(model, ids_1T.to(device)).float().cpu()
            theirs = _read_back(model, folder, ids_1T)
    except Exception as error:  # readers of damaged files raise whatever they like
        raise RunError(
            f"The saved model cannot be loaded again: {error}",
            where=str(folder),
            fix="Check the disk, then save it again from the last checkpoint.",
        ) from error
    finally:
        module.train(was_training)
    if theirs is None:
        return None
    difference = float((ours - theirs.float()).abs().max()) / max(1.0, float(ours.abs().max()))
    if difference != difference:
        raise RunError(
            "The saved model gives logits that are not numbers.",
            where=str(folder),
            fix="Train with a lower learning rate.",
        )
    return difference


def _computing(model: Model) -> AbstractContextManager[object]:
    """A model of mixed precisions computes in the narrower one."""
    dtypes = {p.dtype for p in model.module.parameters() if p.is_floating_point()}
    if len(dtypes) == 1:
        return nullcontext()
    return torch.autocast(next(model.module.parameters()).device.type, dtype=torch.bfloat16)


def _logits(model: Model, ids_1T: Tensor) -> Tensor:
    if isinstance(model.module, FeatureModel):
        hidden_TD = model.module.body(input_ids=ids_1T)[0][0]
        cu_seqlens = torch.tensor([0, ids_1T.shape[1]], device=ids_1T.device)
        outputs_BC: Tensor = model.module.head(hidden_TD, cu_seqlens)
        return outputs_BC
    if model.pooling is not None:
        hidden_TD = model.module(input_ids=ids_1T)[0][0]
        cu_seqlens = torch.tensor([0, ids_1T.shape[1]], device=ids_1T.device)
        return pooled(hidden_TD, cu_seqlens, model.pooling)
    return own_outputs(model.module, input_ids=ids_1T)


def _read_back(model: Model, folder: Path, ids_1T: Tensor) -> Tensor | None:
    reader: Any
    if isinstance(model.module, FeatureModel) or model.pooling is not None:
        if find_spec("sentence_transformers") is None:
            return None
        with uncollected():
            from sentence_transformers import SentenceTransformer

        reader = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        features = {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}
        embedding: Tensor = reader.eval()(features)["sentence_embedding"]
        return embedding
    # An adapter stands on its base in the precision that it was trained on.
    dtype = "auto" if model.peft is None else next(model.body.parameters()).dtype
    # PEFT takes the number of classes from its caller: the base's own files do not know it.
    config: Any = model.module.config
    classes = {"num_labels": config.num_labels} if model.anatomy.head else {}
    if model.streamed is not None:  # the base may be larger than memory
        again = load_result(folder, dtype=next(model.body.parameters()).dtype)
        return _logits(again, ids_1T)
    if model.quantised is not None:
        dtype = config.dtype  # that it was read in before it was quantised
        how = {"quantization_config": config.quantization_config}
    else:
        how = reading_options(config.to_dict())
    reader = _reader_class(model).from_pretrained(folder, dtype=dtype, **classes, **how)
    if is_quantised(model.module):
        settle(reader.get_base_model())
    device = next(reader.parameters()).device
    logits = own_outputs(reader.eval(), input_ids=ids_1T.to(device)).cpu()
    return logits[:, -ids_1T.shape[1] :] if logits.ndim == 3 else logits


def _reader_class(model: Model) -> Any:
    import peft
    import transformers

    ending = HEADS[model.head].ending
    if model.peft is None:
        return getattr(transformers, f"AutoModel{ending}")
    # Of a head that PEFT has no class for, the adapter itself names the model's.
    return getattr(
        peft, f"AutoPeftModel{ending}" if HEADS[model.head].peft_task else "AutoPeftModel"
    )


def _save_beside(model: Model, folder: Path, saved_as: SavedAs) -> None:
    model.tokenizer.save_pretrained(folder)
    module: Any = model.module
    named = model.head in ("features", "tagging") or HEADS[model.head].problem is not None
    labels = module.config.id2label if named else {}
    source = model.source
    path = str(source.path) if saved_as == "adapter" else None
    notes = Notes(
        saved_as=saved_as,
        head=model.head,
        labels=[labels[index] for index in sorted(labels)],
        base=Base(
            name=source.name,
            fingerprint=source.fingerprint,
            revision=source.revision,
            path=path,
            surgery=surgery_of(source.path).get("operations", []),
            quantised=model.quantised,
            streamed=model.streamed is not None,
        ),
    )
    write_notes(folder, notes)


def _write_weights(module: Any, folder: Path) -> None:
    weights = module.state_dict()
    widest = _widest(weights.values())
    module.save_pretrained(folder, state_dict=_widened(weights, widest))
    _state_precision(folder / "config.json", widest)


def _write_head(model: Model, folder: Path) -> None:
    head: Any = model.module.head
    _write_layout(model, head.pooling, folder, dense_folders(head))
    write_maps(head, folder)


def _widest(tensors: Iterable[Tensor]) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return functools.reduce(torch.promote_types, dtypes)


def _widened(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights in one precision; what shares memory goes on sharing it."""
    shared: dict[int, Tensor] = {}
    return {
        name: shared.setdefault(weight.data_ptr(), weight.to(dtype))
        if weight.is_floating_point()
        else weight
        for name, weight in weights.items()
    }


def _state_precision(file: Path, dtype: torch.dtype) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    _json(file, config)


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
        streamed = model.streamed is not None and model.streamed.holds(parameter)
        if streamed or is_wrapped(parameter):
            continue
        if not torch.isfinite(parameter).all():
            raise RunError(
                f"The weights to save are not all finite numbers: {name}.",
                fix="Train with a lower learning rate, from the last good checkpoint.",
            )


def _write_layout(model: Model, pooling: Pooling, folder: Path, dense: Sequence[str] = ()) -> None:
    """The files that sentence-transformers adds, in the form that all its versions read."""
    size = model.anatomy.hidden_size
    length = min(model.anatomy.context_length, model.tokenizer.model_max_length)
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")]
    parts += [(name, "Dense") for name in dense]
    _json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(parts)
        ],
    )
    _json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    modes = {
        "mean": "mean_tokens",
        "cls": "cls_token",
        "last": "lasttoken",
        "max": "max_tokens",
        "weighted_mean": "weightedmean_tokens",
    }
    _json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": size}
        | {f"pooling_mode_{mode}": key == pooling for key, mode in modes.items()},
    )


def _json(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
