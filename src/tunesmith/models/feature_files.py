"""The maps of a `FeatureHead` as sentence-transformers keeps them: a folder for each.

    2_Dense/config.json, model.safetensors     a linear map and what is done to its outputs
    3_Dense/…                                  the next one, where there are two

    1_Pooling/config.json                      what of a text they are given

They are read back from the same files; nothing else is known of the model.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.models.heads import FeatureHead, Pooling

FIRST = 2
"""The number of the first of these folders; transformer and pooling come before it."""


def dense_folders(head: FeatureHead) -> list[str]:
    """Return the names of the folders, in order."""
    return [f"{number}_Dense" for number in range(FIRST, FIRST + len(head.maps))]


def write_maps(head: FeatureHead, folder: Path) -> None:
    """Write each map into its folder within `folder`."""
    for name, (linear, activation) in zip(dense_folders(head), head.maps, strict=True):
        (folder / name).mkdir()
        config = {
            "in_features": linear.in_features,
            "out_features": linear.out_features,
            "bias": True,
            "activation_function": f"{activation.__module__}.{activation.__qualname__}",
        }
        text = json.dumps(config, indent=2) + "\n"
        (folder / name / "config.json").write_text(text, encoding="utf-8")
        weights = {f"linear.{k}": v.detach().cpu() for k, v in linear.state_dict().items()}
        save_file(weights, folder / name / "model.safetensors")


def read_head(like: FeatureHead, folder: Path) -> FeatureHead:
    """Return the head that was written to `folder`, pooled as `like`.

    Args:
        like: a head of a linear map alone, of the right sizes.
    """
    width = 0
    if (folder / f"{FIRST + 1}_Dense").is_dir():
        width = load_file(folder / f"{FIRST}_Dense" / "model.safetensors")["linear.bias"].numel()
    head = wider(like, width)
    for name, (linear, _) in zip(dense_folders(head), head.maps, strict=True):
        weights = load_file(folder / name / "model.safetensors")
        linear.load_state_dict({k.removeprefix("linear."): v for k, v in weights.items()})
    return head


def wider(like: FeatureHead, width: int) -> FeatureHead:
    """Return a new head like this one, with a hidden layer of `width` units; none where 0."""
    linear: nn.Linear = like.linear
    head = FeatureHead(linear.in_features, linear.out_features, like.pooling, width)
    return head.to(linear.weight.device, torch.promote_types(linear.weight.dtype, torch.float32))


def stated_pooling(folder: Path) -> Pooling | None:
    """Return how the model in `folder` was made to be pooled, where its files say so."""
    known: dict[str, Pooling] = {
        "mean_tokens": "mean",
        "mean": "mean",
        "cls_token": "cls",
        "cls": "cls",
        "lasttoken": "last",
        "max_tokens": "max",
        "max": "max",
        "weightedmean_tokens": "weighted_mean",
        "weightedmean": "weighted_mean",
    }
    try:
        text = (folder / "1_Pooling" / "config.json").read_text(encoding="utf-8")
        stated = json.loads(text)
        modes = [key.removeprefix("pooling_mode_") for key, on in stated.items() if on is True]
        for mode in [stated.get("pooling_mode"), *modes]:
            if mode in known:
                return known[mode]
    except (OSError, ValueError, AttributeError):
        pass  # most models come without this file
    return None
