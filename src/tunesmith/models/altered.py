"""An altered model: made once from another by operations, kept in the cache, loaded like any other.

    Resolved, operations ──altered──> Resolved    a folder with weights, tokenizer, surgery.json

The source is only read. The folder lies under the digest of the source's files and the operations,
so that the same surgery gives the same folder; adapters trained on it point there, and it can be
made again from the source wherever it is missing. Whatever comes out is loaded by transformers
before it takes its place; where the operations must keep the model's answers, these are compared.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.console import Console
from tunesmith.errors import ModelError, RecipeError
from tunesmith.models.anatomy.blueprint import architecture_class
from tunesmith.models.atomic import locked, written_aside
from tunesmith.models.draft import draft_of
from tunesmith.models.fingerprint import cache_root
from tunesmith.models.load import load_tokenizer, read_config
from tunesmith.models.model import Model
from tunesmith.models.quiet import quiet
from tunesmith.models.resolve import Resolved, of_folder
from tunesmith.models.soundness import check_unquantised
from tunesmith.models.surgery.base import Operation
from tunesmith.registry import OPERATIONS

NOTES = "surgery.json"


def make_operation(given: Mapping[str, Any]) -> Operation:
    """Return the operation that `{name: …, option: …}` describes.

    Raises:
        RecipeError: there is no such operation.
    """
    options = {key: value for key, value in given.items() if key != "name"}
    member = OPERATIONS.get(str(given["name"]))
    operation: Operation = member(member.Options.model_validate(options))
    return operation


def described(operation: Operation) -> dict[str, Any]:
    """Return an operation as JSON data; `make_operation` takes it back."""
    return {"name": operation.name, **operation.options.model_dump(mode="json")}


def altered(source: Resolved, operations: Sequence[Operation], console: Console) -> Resolved:
    """Return the model that the operations make of `source`; itself where none makes other files.

    Raises:
        RecipeError: an operation does not suit this model.
        ModelError: its files cannot be read.
        RunError: the cache cannot be written.
    """
    shaping = [operation for operation in operations if operation.works_on == "files"]
    if not shaping:
        return source
    check_unquantised(source, read_config(source))
    folder = cache_root() / "altered" / _key(source, shaping)
    with locked(folder):
        if not folder.is_dir():
            console.note(f"Altering {source.name} (once, into {cache_root()})")
            with written_aside(folder) as aside:
                _make(source, shaping, aside)
    return of_folder(folder, source.name, "altered", source.revision)


def settle(model: Model, operations: Sequence[Operation], turn: str) -> None:
    """Let the operations whose turn it is change a loaded model, and note what they did.

    Args:
        turn: `loaded` or `marked`.

    Raises:
        RecipeError: an operation does not suit this model.
    """
    said = [each.settle(model) for each in operations if each.works_on == turn]
    model.surgery = (*model.surgery, *said)


def surgery_of(folder: Path) -> dict[str, Any]:
    """Return what is noted of the surgery that made `folder`; empty where none did."""
    try:
        noted: dict[str, Any] = json.loads((folder / NOTES).read_text(encoding="utf-8"))
    except OSError:
        return {}
    return noted


def _key(source: Resolved, operations: Sequence[Operation]) -> str:
    digest = hashlib.sha256(source.fingerprint.encode())
    for file in sorted(source.path.glob("*.json")):
        if file.name != NOTES and not file.name.endswith(".index.json"):
            digest.update(file.name.encode() + file.read_bytes())
    digest.update(json.dumps([described(operation) for operation in operations]).encode())
    return digest.hexdigest()[:16]


def _make(source: Resolved, operations: Sequence[Operation], folder: Path) -> None:
    module = _load(source.path, source.name)
    draft = draft_of(module, load_tokenizer(source))
    changes = [operation.alter(draft) for operation in operations]
    made: Any = draft.module()
    with quiet():
        if getattr(module, "generation_config", None) is not None:
            made.generation_config = module.generation_config
        made.save_pretrained(folder)
        draft.tokenizer.save_pretrained(folder)
    pooling = source.path / "1_Pooling" / "config.json"
    if pooling.is_file():
        (folder / "1_Pooling").mkdir()
        shutil.copyfile(pooling, folder / "1_Pooling" / "config.json")
    noted = {
        "schema_version": 1,
        "keeps_answers": all(operation.keeps_answers for operation in operations),
        "base": {"name": source.name, "fingerprint": source.fingerprint},
        "operations": [described(operation) for operation in operations],
        "changes": changes,
    }
    (folder / NOTES).write_text(json.dumps(noted, indent=2) + "\n", encoding="utf-8")
    read_back = _load(folder, source.name)
    if all(operation.keeps_answers for operation in operations):
        _check_same(module, read_back, source.name)


def _load(folder: Path, name: str) -> nn.Module:
    from transformers import AutoConfig

    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            module: nn.Module = architecture_class(config).from_pretrained(
                folder, dtype="auto", local_files_only=True
            )
    except Exception as error:  # readers of damaged files raise whatever they like
        raise ModelError(
            f"The weights of {name} cannot be loaded: {str(error).splitlines()[0]}",
            where=str(folder),
            fix="Fetch or save the model again; a model that brings its own code is not run.",
        ) from error
    return module.eval()


def _check_same(before: nn.Module, after: nn.Module, name: str) -> None:
    expected, found = _answer(before).float(), _answer(after).float()
    rounding = 1e-5 if next(before.parameters()).dtype == torch.float32 else 2e-2
    if (found - expected).norm() > rounding * expected.norm():
        raise RecipeError(
            f"{name} would not answer as before: in its family, what a layer adds passes through "
            "a norm, so that even a layer that adds nothing changes the answer.",
            where="surgery",
            fix="Leave the operation out, or choose a model that norms before its layers, as most "
            "decoders do.",
        )


@torch.no_grad()
def _answer(module: Any) -> Tensor:
    limit = module.get_input_embeddings().weight.shape[0]
    ids_1T = (torch.arange(24)[None] * 7919 + 11) % limit
    given = {"decoder_input_ids": ids_1T} if module.config.is_encoder_decoder else {}
    outputs: Tensor = module(input_ids=ids_1T, **given)[0]
    return outputs
