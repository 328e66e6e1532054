"""From files to a `Model`: the module with the head that the task needs, judged fit and whole.

    Resolved ──kind fits the head?──> transformers loads ──all weights there and finite?──> Model

A new classification head is drawn inside `seeded`, so that it depends on the seed alone. A module
comes in eval mode, without key/value cache, in the precision asked for. `load_result` does the
same for a result that `saving.py` wrote. It knows no task, technique or recipe; whether documents
can be packed is probed by the engine.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from tunesmith.console import Console
from tunesmith.errors import ModelError, first_line
from tunesmith.models import quantised as quantisation
from tunesmith.models import soundness
from tunesmith.models.adapters import adapted_part, changes_anything
from tunesmith.models.anatomy import study
from tunesmith.models.feature_files import read_head, stated_pooling
from tunesmith.models.heads import HEADS, FeatureHead, FeatureModel, Head, Pooling
from tunesmith.models.kinds import ENCODER, check_fit
from tunesmith.models.model import Model
from tunesmith.models.notes import Notes, read_notes
from tunesmith.models.quantised import Quantised
from tunesmith.models.quiet import quiet
from tunesmith.models.resolve import Resolved, of_folder, resolve
from tunesmith.models.seeded import seeded
from tunesmith.models.shape import shaped, stand_in_tokenizer
from tunesmith.models.streamed import Streamed
from tunesmith.models.virtual_tokens import read_virtual_tokens

_CLASSES: dict[str, Any] = {
    "causal_lm": AutoModelForCausalLM,
    "seq2seq_lm": AutoModelForSeq2SeqLM,
    "classification": AutoModelForSequenceClassification,
    "masked_lm": AutoModelForMaskedLM,
    "multi_label": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "tagging": AutoModelForTokenClassification,
    "extraction": AutoModelForQuestionAnswering,
    "embedding": AutoModel,
    "features": AutoModel,
}

_REPORTED = ("missing_keys", "mismatched_keys", "unexpected_keys")


def load_model(
    source: Resolved,
    *,
    head: str,
    labels: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    quantised: Quantised | None = None,
    streamed: bool = False,
) -> Model:
    """Load the model at `source` with a head.

    Args:
        head: `causal_lm`, `seq2seq_lm` (an encoder-decoder's), `classification` (one logit a
            label), `tagging` (likewise, of each token), `extraction` (two of each token),
            `embedding` (one vector of a document), or `features` (likewise, and a linear map of it
            to the labels that starts at zero).
        labels: names of what the head says, in order of their index: classes, or that of one
            number; none for other heads.
        dtype: precision of the weights.
        seed: from which a new head is drawn.
        quantised: how to store the linear maps of the layers, where not in `dtype`.
        streamed: leave the layers on disk, and read each when it is computed.

    Raises:
        ModelError: the model does not suit the head, or its files are incomplete or broken; or what
            reads quantised weights is not installed.
    """
    config = read_config(source)
    kind = check_fit(source.name, config, head)
    soundness.check_readable(source, config, again=quantised is not None)
    tokenizer = load_tokenizer(source)
    # What lies on disk as it will be computed is only looked at when it is used; else it is read.
    read_in = "auto" if streamed else dtype
    module, report = _load_module(source, head, labels, read_in, seed, quantised)
    anatomy = study(module)
    if quantisation.is_quantised(module):
        soundness.check_packed(source, module, anatomy)
        quantisation.settle(module)
    missing = {*report["missing_keys"], *(item[0] for item in report["mismatched_keys"])}
    poolers = () if anatomy.pooler is None else (anatomy.pooler,)
    if head == "masked_lm" and missing:
        raise ModelError(
            f"{source.name} comes without the layer that fills in words, so there is nothing to go"
            f" on from ({min(missing)} is missing, for one).",
            where=str(source.path),
            fix="Choose an encoder that was pre-trained so, such as distilbert-base-uncased.",
        )
    soundness.check_complete(source, missing, {*anatomy.head, *poolers})
    soundness.check_no_surplus(source, anatomy, report["unexpected_keys"])
    layers = Streamed.of(module, anatomy, source, dtype) if streamed else None
    soundness.check_finite(source, module, layers)
    module.config.use_cache = False
    if head == "features":
        module.config.id2label, module.config.label2id = _label_maps(labels)
        outputs = FeatureHead(anatomy.hidden_size, len(labels), _pooling(source, kind))
        module = FeatureModel(module, outputs)
        anatomy = study(module)
    model = Model(module.eval(), tokenizer, anatomy, source, quantised=quantised, streamed=layers)
    model.new_head = head == "features"
    if head == "embedding":
        model.pooling = _pooling(source, kind)
    soundness.check_vocabulary(model)
    if head != "causal_lm":
        _give_padding(model)
    if head not in ("causal_lm", "seq2seq_lm", "masked_lm", "embedding", "features"):
        if not _keeps_head(config, head, labels):
            _draw_head(model, seed)
            model.new_head = True
        soundness.check_head(model)
    return model


def as_in_files(model: Model) -> nn.Module:
    """Return the model's modules with the weights that lie in its files, not quantised.

    They are looked at when they are used and keep the files' precision. A new head is drawn anew.

    Raises:
        ModelError: the files cannot be read.
    """
    config: Any = model.module.config
    labels = list(config.id2label.values()) if model.anatomy.head else []
    module: nn.Module
    module, _ = _load_module(model.source, model.head, labels, "auto", 0, None)
    return module


def load_result(
    folder: Path, *, dtype: torch.dtype = torch.float32, console: Console | None = None
) -> Model:
    """Load the result of a run: full weights, an adapter on its base, or a repurposed encoder.

    Args:
        folder: what a technique's `save` wrote.
        console: where to say that an adapter's base is being fetched.

    Raises:
        ModelError: it is no such folder, or the adapter's base is missing or other weights.
    """
    notes = read_notes(folder)
    if notes.saved_as == "adapter":
        return _load_adapter(folder, notes, dtype, console)
    source = of_folder(folder, notes.base.name, "folder")
    model = load_model(source, head=notes.head, labels=notes.labels, dtype=dtype)
    if notes.saved_as == "features":
        assert isinstance(model.module, FeatureModel)
        model.module.head = read_head(model.module.head, folder)
    return model


def read_config(source: Resolved) -> dict[str, Any]:
    """Return the model's `config.json`.

    Raises:
        ModelError: it cannot be read.
    """
    file = source.path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The model's configuration cannot be read: {error}",
            where=str(file),
            fix="Fetch or save the model again.",
        ) from error
    return config


def load_tokenizer(source: Resolved) -> Any:
    """Return the model's tokenizer; of a shape that has none, one that stands in for it.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    if source.origin == "shape" and not has_tokenizer(source.path):
        return stand_in_tokenizer(read_config(source))
    return _tokenizer_at(source.path, source.name)


def has_tokenizer(folder: Path) -> bool:
    """Whether files of a tokenizer are in a folder."""
    patterns = ("tokenizer*", "vocab.*", "spiece.model", "sentencepiece*")
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def _tokenizer_at(folder: Path, name: str) -> Any:
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # readers of damaged files raise whatever they like
        raise ModelError(
            f"The tokenizer of {name} cannot be read: {first_line(error)}",
            where=str(folder),
            fix="The folder needs the tokenizer's files (tokenizer.json, tokenizer_config.json) "
            "beside the weights.",
        ) from error


def _load_module(
    source: Resolved,
    head: str,
    labels: Sequence[str],
    dtype: torch.dtype | str,
    seed: int,
    quantised: Quantised | None,
) -> tuple[Any, dict[str, Any]]:
    """Return the module, and transformers' report of which keys it missed."""
    if source.origin == "shape":
        bare = _skeleton(source, head, labels)
        format = dtype if isinstance(dtype, torch.dtype) else torch.float32
        return shaped(bare, study(bare), format, quantised), dict.fromkeys(_REPORTED, ())
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
    problem = _known(head).problem
    if problem or head == "tagging":
        id2label, label2id = _label_maps(labels)
        options |= {
            "id2label": id2label,
            "label2id": label2id,
            "num_labels": len(labels),
            "ignore_mismatched_sizes": True,
        }
    if problem:
        options["problem_type"] = problem
    config = read_config(source)
    if quantised is not None and isinstance(dtype, torch.dtype):
        skeleton = _skeleton(source, head, labels)
        options["quantization_config"] = quantised.load_options(skeleton, study(skeleton), dtype)
    try:
        options |= quantisation.reading_options(config)
        with quiet(), seeded(seed):
            module, report = _CLASSES[head].from_pretrained(
                source.path, output_loading_info=True, **options
            )
    except Exception as error:  # readers of damaged files raise whatever they like
        raise ModelError(
            f"The weights of {source.name} cannot be loaded: {first_line(error)}",
            where=str(source.path),
            fix=quantisation.reading_advice(config)
            or "Fetch or save the model again; a model that brings its own code is not run.",
        ) from error
    return module, report


def _skeleton(source: Resolved, head: str, labels: Sequence[str]) -> Any:
    """The model with its head, without data."""
    try:
        with quiet(), torch.device("meta"):
            config = AutoConfig.from_pretrained(source.path, local_files_only=True)
            if labels:
                config.id2label, config.label2id = _label_maps(labels)
            return _CLASSES[head].from_config(config)
    except Exception as error:  # readers of damaged files raise whatever they like
        raise ModelError(
            f"The configuration of {source.name} cannot be read: {first_line(error)}",
            where=str(source.path),
            fix="Fetch or save the model again; a model that brings its own code is not run.",
        ) from error


def _load_adapter(folder: Path, notes: Notes, dtype: torch.dtype, console: Console | None) -> Model:
    from peft import PeftModel

    model = load_model(
        _base(folder, notes, console),
        head=notes.head,
        labels=notes.labels,
        dtype=dtype,
        quantised=notes.base.quantised,
        streamed=notes.base.streamed,
    )
    try:
        with quiet():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model.peft = PeftModel.from_pretrained(adapted_part(model), folder)
            _read_pooling_and_head(model, folder)
            if model.peft.active_peft_config.is_prompt_learning:
                read_virtual_tokens(model)
    except Exception as error:  # readers of damaged files raise whatever they like
        raise ModelError(
            f"The adapter cannot be loaded: {first_line(error)}",
            where=str(folder),
            fix="Take it from the run again.",
        ) from error
    if not changes_anything(model):
        raise ModelError(
            "The adapter changes nothing: all that it adds is zero.",
            where=str(folder),
            fix="Train it for longer, or with a higher learning rate.",
        )
    model.tokenizer = _tokenizer_at(folder, str(folder))
    model.module.eval()
    return model


def _read_pooling_and_head(model: Model, folder: Path) -> None:
    """Take over what stands on the body, where an adapter was saved with such a thing."""
    stated = stated_pooling(folder)
    if isinstance(model.module, FeatureModel):
        model.module.head.pooling = stated or model.module.head.pooling
        model.module.head = read_head(model.module.head, folder)
    elif model.pooling is not None:
        model.pooling = stated or model.pooling


def _base(folder: Path, notes: Notes, console: Console | None) -> Resolved:
    """Return the base of an adapter: where it was, or found again by its name."""
    if notes.base.path is not None and (Path(notes.base.path) / "config.json").is_file():
        base = of_folder(Path(notes.base.path), notes.base.name, "folder", notes.base.revision)
    else:
        base = resolve(notes.base.name, console)
        if notes.base.surgery:
            from tunesmith.models.altered import altered, make_operation  # it reads models, too

            operations = [make_operation(given) for given in notes.base.surgery]
            base = altered(base, operations, console or Console(quiet=True))
    if base.fingerprint != notes.base.fingerprint:
        raise ModelError(
            f"The adapter was trained on other weights of {notes.base.name} than those here: "
            f"their fingerprints are {notes.base.fingerprint[:12]} and {base.fingerprint[:12]}.",
            where=str(folder),
            fix=f"Put the original weights back in {base.path}, or train again on these.",
        )
    return base


def _label_maps(labels: Sequence[str]) -> tuple[dict[int, str], dict[str, int]]:
    return dict(enumerate(labels)), {label: index for index, label in enumerate(labels)}


def _pooling(source: Resolved, kind: str) -> Pooling:
    """How this model was made to be pooled, else what its kind suggests."""
    return stated_pooling(source.path) or ("mean" if kind == ENCODER else "last")


def _keeps_head(config: dict[str, Any], head: str, labels: Sequence[str]) -> bool:
    """Whether the files hold a head of this kind for these very labels already."""
    names = config.get("id2label") or {}
    architectures = config.get("architectures") or [""]
    kept = str(architectures[0]).endswith(_known(head).ending)
    if not labels:
        return kept
    if len(labels) == 1:  # one number is one number, whatever it is called
        return kept and len(names) == 1
    return kept and [names.get(str(index)) for index in range(len(names))] == list(labels)


def _known(head: str) -> Head:
    return next(known for name, known in HEADS.items() if name == head)


def _draw_head(model: Model, seed: int) -> None:
    """Draw the head anew from the seed alone, as the family itself does."""
    module: Any = model.module
    with seeded(seed), torch.no_grad():
        for name in model.anatomy.head:
            for part in module.get_submodule(name).modules():
                for parameter in part.parameters(recurse=False):
                    # transformers leaves alone what carries this mark: what came from files
                    parameter._is_hf_initialized = False
                module._init_weights(part)


def _give_padding(model: Model) -> None:
    """Name a padding token where there is none: packing needs none, other readers do."""
    module: Any = model.module
    config = module.config.get_text_config()
    if model.tokenizer.pad_token_id is None:
        model.tokenizer.pad_token = model.tokenizer.eos_token
    if config.pad_token_id is None:
        config.pad_token_id = model.tokenizer.pad_token_id
