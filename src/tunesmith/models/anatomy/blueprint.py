"""A model without weights: the modules that a configuration describes, on the meta device.

    folder with config.json ──blueprint──> module whose parameters have shapes and no data

It takes no memory and no time, whatever the size of the model, so that a model can be looked at
(and operated on, to see what would come of it) where its weights are absent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel

from tunesmith.errors import ModelError, first_line
from tunesmith.models.quiet import quiet


def blueprint(folder: Path, name: str) -> nn.Module:
    """Return the modules that `folder`'s configuration describes, in its own precision.

    Args:
        folder: holds `config.json`; weights are not read.
        name: of the model, for messages.

    Raises:
        ModelError: transformers does not know such a model.
    """
    try:
        with quiet(), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            stated = getattr(config, "dtype", None)
            dtype = getattr(torch, stated) if isinstance(stated, str) else stated
            module: Any = builder_of(config)(config, dtype=dtype or torch.float32)
    except Exception as error:  # readers of odd configurations raise whatever they like
        raise ModelError(
            f"The configuration of {name} describes no model that transformers has: "
            f"{first_line(error)}",
            where=str(folder / "config.json"),
            fix="Choose a model of a family that transformers knows; a model that brings its own "
            "code is not run.",
        ) from error
    built: nn.Module = module.eval()
    return built


def architecture_class(config: Any) -> Any:
    """Return transformers' class that the configuration names, else the bare body's."""
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, name, None)
        if found is not None and hasattr(found, "_from_config"):
            return found
    return AutoModel


def builder_of(config: Any) -> Any:
    """Return what makes a module of a configuration: `builder(config, dtype=…)`."""
    found = architecture_class(config)
    return found.from_config if found is AutoModel else found._from_config
