"""Models of random weights in the shapes of real ones, for machines that have the size but no hub.

Speed and memory do not depend on what the weights are. The tokenizer is SmolLM2's, whose ids all
fit below these vocabularies. The tiny shapes are for trying a command out on any machine.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-8b": (
        "qwen3",
        {
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 40960,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
    ),
    "llama-3.1-8b": (
        "llama",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 131072,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
        },
    ),
    "smollm2-1.7b": (
        "llama",
        {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
    ),
    "smollm2-360m": (
        "llama",
        {
            "hidden_size": 960,
            "intermediate_size": 2560,
            "num_hidden_layers": 32,
            "num_attention_heads": 15,
            "num_key_value_heads": 5,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
    ),
    "smollm2-135m": (
        "llama",
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3-0.6b": (
        "qwen3",
        {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 40960,
            "tie_word_embeddings": True,
        },
    ),
    "gpt2": (
        "gpt2",
        {
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 1024,
            "vocab_size": 50257,
        },
    ),
    "tiny-qwen3": (
        "qwen3",
        {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
        },
    ),
    "tiny-llama": (
        "llama",
        {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
        },
    ),
}


def make(shape: str, tokenizer: Path, home: Path, vocab_size: int | None = None) -> Path:
    """Return a folder with a model of this shape, drawn from seed 0 and written once, in bfloat16.

    Args:
        tokenizer: a folder whose tokenizer the model gets.
        home: under which the folder is made.
        vocab_size: in place of the shape's own; no smaller than the tokenizer's.
    """
    if shape not in SHAPES:
        raise SystemExit(f"no shape is called {shape!r}; there are {', '.join(SHAPES)}")
    folder = home / shape
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    family, settings = SHAPES[shape]
    reader = AutoTokenizer.from_pretrained(tokenizer)
    special = {"bos_token_id": reader.bos_token_id, "eos_token_id": reader.eos_token_id}
    size = {} if vocab_size is None else {"vocab_size": vocab_size}
    config = AutoConfig.for_model(family, **{**settings, **special, **size})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        module = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    aside = folder.with_name(f"{folder.name}.part")
    module.save_pretrained(aside)
    reader.save_pretrained(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return folder
