"""Turns a GGUF file into a folder that transformers and PEFT load without us, once.

The quantised weights are expanded to float32 exactly as they are (nothing is trained or changed)
and kept in the cache under the file's SHA-256; adapters trained on them point there. The tokenizer
keeps its chat template.

transformers marks a model that it read from GGUF as quantised and refuses to convert it, so its
tensors are moved into a fresh module of the same configuration.
"""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tunesmith.console import Console
from tunesmith.errors import ModelError
from tunesmith.models.atomic import locked, written_aside
from tunesmith.models.fingerprint import cache_root, file_digest


def kept(file: Path) -> Path | None:
    """Return the folder that `file` was turned into before, or None."""
    folder = _place(file)
    return folder if folder.is_dir() else None


def dequantised(file: Path, console: Console) -> Path:
    """Return a folder with the weights of `file` in float32, its configuration and tokenizer.

    Raises:
        ModelError: it is not a GGUF file, or holds a model that transformers cannot read.
        RunError: the cache cannot be written.
    """
    _check_magic(file)
    folder = _place(file)
    with locked(folder):
        if not folder.is_dir():
            console.note(f"Expanding {file.name} to float32 (once, into {cache_root()})")
            with written_aside(folder) as aside:
                _expand(file, aside)
    return folder


def _place(file: Path) -> Path:
    return cache_root() / "gguf" / file_digest(file)[:16]


def _check_magic(file: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(
                "This is not a GGUF file: it does not begin with the letters GGUF.",
                where=str(file),
                fix="Fetch it again; a file of a few hundred bytes is often a Git LFS pointer.",
            )


def _expand(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tunesmith.models.quiet import quiet

    try:
        # The reader's progress bar cannot be switched off; it is given a stream to write to.
        with quiet(), redirect_stderr(io.StringIO()):
            where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
            tokenizer = AutoTokenizer.from_pretrained(**where)
            read = AutoModelForCausalLM.from_pretrained(**where)
            fresh = _fresh(read)
            fresh.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError):  # of the disk that is written to
        raise
    except Exception as error:  # readers of damaged files raise whatever they like
        raise ModelError(
            f"This GGUF file cannot be read: {error}",
            where=str(file),
            fix="Choose a file of a family that transformers reads (Llama, Mistral, Qwen2, Phi3, "
            "Gemma2 …), or the original model.",
        ) from error
    origin = {"gguf": file.name, "sha256": file_digest(file)}
    (folder / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")


def _fresh(read: Any) -> Any:
    """Return an unquantised module with the tensors of `read`; tied weights stay tied."""
    import torch

    config = type(read.config).from_dict(read.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    with torch.device("meta"):
        fresh = type(read)(config)
    fresh.load_state_dict({k: v.float() for k, v in read.state_dict().items()}, assign=True)
    fresh.tie_weights()
    fresh.generation_config = read.generation_config
    return fresh
