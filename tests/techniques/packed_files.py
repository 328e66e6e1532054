"""Checkpoints in the forms of GPTQ and AWQ, written from a plain one by the published layouts.

    weight -> codes 0..15, a scale and a zero for each group of inputs -> eight codes in a word

Weights are rounded to the nearest code; what the methods do besides is choosing better ones. The
weights that the codes stand for come back beside the files, for comparison.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

GROUP = 32
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def write_packed(plain: Path, folder: Path, method: str) -> dict[str, torch.Tensor]:
    """Write the linear maps of the layers of `plain` packed; return all weights as they stand."""
    folder.mkdir()
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    stored, meant = {}, {}
    for name, weight in load_file(plain / "model.safetensors").items():
        if ".layers." not in name or weight.ndim != 2:
            stored[name] = meant[name] = weight
            continue
        codes_OD, scales_OG, zeros_OG = _coded(weight)
        by_input = scales_OG.repeat_interleave(GROUP, 1), zeros_OG.repeat_interleave(GROUP, 1)
        meant[name] = (codes_OD - by_input[1]) * by_input[0]
        stem = name.removesuffix("weight")
        stored[f"{stem}scales"] = scales_OG.t().half().contiguous()
        if method == "gptq":
            stored[f"{stem}qweight"] = _words(codes_OD).t().contiguous()
            stored[f"{stem}qzeros"] = _words(zeros_OG.t() - 1)
            stored[f"{stem}g_idx"] = (torch.arange(weight.shape[1]) // GROUP).int()
        else:
            stored[f"{stem}qweight"] = _words(_shuffled(codes_OD.t()))
            stored[f"{stem}qzeros"] = _words(_shuffled(zeros_OG.t()))
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": GROUP} | (
        {"desc_act": False, "sym": False, "checkpoint_format": "gptq"}
        if method == "gptq"
        else {"zero_point": True, "version": "gemm"}
    )
    (folder / "config.json").write_text(json.dumps(config))
    return meant


def _coded(weight_OD):
    groups = weight_OD.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scales = ((high - low) / 15).half().float()
    zeros = (-low / scales).round().clamp(1, 15)
    codes = (groups / scales.unsqueeze(-1) + zeros.unsqueeze(-1)).round().clamp(0, 15)
    return codes.flatten(1), scales, zeros


def _words(codes):
    """Eight codes of the last dimension in each word of 32 bits, the first in its lowest bits."""
    words = (codes.long().unflatten(-1, (-1, 8)) << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(words < 2**31, words, words - 2**32).int().contiguous()


def _shuffled(codes):
    return codes.unflatten(-1, (-1, 8))[..., _AWQ_ORDER].flatten(-2)
