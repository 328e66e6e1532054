"""What is compared: each side is a peer with settings, on the kinds of work and devices it is for.

    sides_for("lora", "cpu") ──> [Side("tunesmith", …), Side("trl", …), …]

A peer stands here with the settings that its users begin with (`default`) and with the best that
were found for it on the device. Rank, targets, learning rate, records of a step and epochs come
from the job and are the same for all; what is not named is left as the peer has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OURS = "tunesmith"
LANGUAGE = ("lora", "full", "qlora")


@dataclass(frozen=True)
class Side:
    """One row of the comparison.

    Attributes:
        key: names it on the command line.
        title: names it in the table.
        peer: whose environment it runs in; `tunesmith` is the one that the harness runs in.
        runner: the script under `runners/`.
        settings: what the runner is told; overrides what the peer would choose.
        kinds: the work it can do.
        devices: where these settings make sense; elsewhere it is left out, unless named.
        stages: run before and after the timed one, to bring formats of its own there and back.
    """

    key: str
    title: str
    peer: str
    runner: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = LANGUAGE
    devices: tuple[str, ...] = ("cpu", "cuda")
    stages: tuple[str, ...] = ("train",)


_FLOAT32 = {"bf16": False, "gradient_checkpointing": False}
_SINGLE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
_CPU, _GPU = ("cpu",), ("cuda",)
_BF16 = {"bf16": True, "gradient_checkpointing": False}
_LIT = {"litgpt_name": "SmolLM2-135M-Instruct"}

SIDES = (
    Side("tunesmith", "Tunesmith", OURS, "tunesmith_loop", kinds=(*LANGUAGE, "classifier", "head")),
    # TRL
    Side("trl", "TRL, default", "trl", "trl_sft"),
    Side("trl-float32", "TRL, float32", "trl", "trl_sft", _FLOAT32, devices=_CPU),
    Side(
        "trl-by-length",
        "TRL, float32, grouped by length",
        "trl",
        "trl_sft",
        {**_FLOAT32, "train_sampling_strategy": "group_by_length"},
        devices=_CPU,
    ),
    Side(
        "trl-single",
        "TRL, float32, one record at a time",
        "trl",
        "trl_sft",
        {**_FLOAT32, **_SINGLE},
        devices=_CPU,
    ),
    Side(
        "trl-padding-free",
        "TRL, float32, padding-free",
        "trl",
        "trl_sft",
        {**_FLOAT32, "padding_free": True},
        devices=_CPU,
    ),
    Side("trl-bfloat16", "TRL, bfloat16", "trl", "trl_sft", _BF16, devices=_CPU),
    Side(
        "trl-liger",
        "TRL, Liger kernels",
        "trl",
        "trl_sft",
        {**_FLOAT32, "use_liger_kernel": True},
        devices=_CPU,
    ),
    Side(
        "trl-best",
        "TRL, bfloat16, padding-free, Liger kernels",
        "trl",
        "trl_sft",
        {**_BF16, "padding_free": True, "use_liger_kernel": True},
        devices=_GPU,
    ),
    # transformers' own Trainer
    Side("hf", "HF Trainer + PEFT, default", "transformers", "hf_trainer"),
    Side(
        "hf-single",
        "HF Trainer + PEFT, one record at a time",
        "transformers",
        "hf_trainer",
        _SINGLE,
        devices=_CPU,
    ),
    Side(
        "hf-bfloat16",
        "HF Trainer + PEFT, bfloat16",
        "transformers",
        "hf_trainer",
        _BF16,
        devices=_GPU,
    ),
    # The others
    Side("llamafactory", "LLaMA-Factory, default", "llamafactory", "llama_factory"),
    Side(
        "llamafactory-single",
        "LLaMA-Factory, no checkpointing, one record at a time",
        "llamafactory",
        "llama_factory",
        {"disable_gradient_checkpointing": True, **_SINGLE},
        devices=_CPU,
    ),
    Side(
        "llamafactory-best",
        "LLaMA-Factory, bfloat16, Liger kernels, no checkpointing",
        "llamafactory",
        "llama_factory",
        {"bf16": True, "enable_liger_kernel": True, "disable_gradient_checkpointing": True},
        devices=_GPU,
    ),
    Side("axolotl", "Axolotl, default", "axolotl", "axolotl_train"),
    Side(
        "axolotl-single",
        "Axolotl, float32, no Triton kernels, one record at a time",
        "axolotl",
        "axolotl_train",
        {
            "bf16": False,
            "lora_mlp_kernel": False,
            "lora_qkv_kernel": False,
            "lora_o_kernel": False,
            "micro_batch_size": 1,
            "gradient_accumulation_steps": 8,
        },
        devices=_CPU,
    ),
    Side(
        "axolotl-best",
        "Axolotl, bfloat16, LoRA kernels",
        "axolotl",
        "axolotl_train",
        {"bf16": True, "lora_mlp_kernel": True, "lora_qkv_kernel": True, "lora_o_kernel": True},
        devices=_GPU,
    ),
    Side(
        "litgpt",
        "LitGPT, default",
        "litgpt",
        "lit_gpt",
        _LIT,
        stages=("convert", "train", "restore"),
    ),
    Side(
        "litgpt-single",
        "LitGPT, float32, one record at a time",
        "litgpt",
        "lit_gpt",
        {**_LIT, "precision": "32-true", "micro_batch_size": 1},
        devices=_CPU,
        stages=("convert", "train", "restore"),
    ),
    Side("ms-swift", "ms-swift, default", "ms-swift", "ms_swift"),
    Side(
        "ms-swift-single",
        "ms-swift, float32, no checkpointing, one record at a time",
        "ms-swift",
        "ms_swift",
        {"torch_dtype": "float32", "gradient_checkpointing": "false", **_SINGLE},
        devices=_CPU,
    ),
    Side("soup", "Soup, default", "soup", "soup"),
    Side(
        "soup-single",
        "Soup, one record at a time",
        "soup",
        "soup",
        {"batch_size": 1, "gradient_accumulation_steps": 8},
        devices=_CPU,
    ),
    Side("unsloth", "Unsloth", "unsloth", "unsloth_sft"),
    # All weights of an encoder with a classifier on it
    Side(
        "hf-classifier",
        "HF Trainer, default",
        "transformers",
        "hf_trainer",
        kinds=("classifier",),
    ),
    Side(
        "hf-classifier-by-length",
        "HF Trainer, grouped by length",
        "transformers",
        "hf_trainer",
        {"train_sampling_strategy": "group_by_length"},
        kinds=("classifier",),
    ),
    Side(
        "hf-classifier-single",
        "HF Trainer, one text at a time",
        "transformers",
        "hf_trainer",
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 32},
        kinds=("classifier",),
        devices=_CPU,
    ),
    # A head on a frozen encoder
    Side(
        "hf-frozen",
        "HF Trainer, through the frozen body every epoch",
        "transformers",
        "hf_trainer",
        kinds=("head",),
    ),
    Side(
        "sentence-transformers-steps",
        "sentence-transformers, encoded once, head by steps",
        "sentence-transformers",
        "sentence_encoder",
        {"way": "steps"},
        kinds=("head",),
    ),
    Side(
        "sentence-transformers-solver",
        "sentence-transformers, encoded once, scikit-learn's solver",
        "sentence-transformers",
        "sentence_encoder",
        {"way": "solver"},
        kinds=("head",),
    ),
    Side(
        "setfit",
        "SetFit, its head on the frozen body",
        "setfit",
        "sentence_encoder",
        {"way": "setfit"},
        kinds=("head",),
    ),
)


def sides_for(kind: str, device: str, keys: list[str] | None = None) -> list[Side]:
    """Return the sides of this work on this device, Tunesmith first.

    Args:
        keys: those that are wanted; Tunesmith is always among them.

    Raises:
        SystemExit: a key is not known, or its side cannot do this work.
    """
    able = {side.key: side for side in SIDES if kind in side.kinds}
    unknown = [key for key in keys or () if key not in able]
    if unknown:
        raise SystemExit(
            f"no side for {kind} is called {unknown[0]!r}; there are {', '.join(able)}"
        )
    if keys:
        return [side for side in able.values() if side.key in {OURS, *keys}]
    return [side for side in able.values() if device in side.devices]
