"""Small tokenizers that carry the chat templates and the control tokens of real model families."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

FAMILIES = [
    "cohere", "cohere2", "deepseek_r1_distill", "deepseekv3", "gemma", "gemma3", "gemma4_v2",
    "gemma4_v5", "glm4moe", "gptoss", "idefics3", "lfm2", "lfm2_2_5_v2", "llama3", "llama3_1",
    "llama3_2", "llava_next", "muse_glimmer", "nemotron_3_nano", "nemotron_3_ultra", "phi3",
    "phi3_5", "qwen2_5", "qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_8", "qwen3_vl",
    "smolvlm",
]  # fmt: skip
"""Templates of TRL's package, without the variants that differ in nothing tested here."""

BREAK_PREFIX = {
    "deepseek_r1_distill", "deepseekv3", "gptoss", "nemotron_3_nano", "nemotron_3_ultra", "qwen3",
    "qwen3_5_nothink", "qwen3_5_think",
}  # fmt: skip
"""Templates that write an earlier answer otherwise than the last."""

_MARKER = re.compile(r"<[|｜][^\s<>'\"|｜]+[|｜]>|<\|?[a-z_]+\|?>|</s>|\[gMASK\]")
_SPOKEN = ("think", "tool", "arg")
_SAMPLE = "hello world, how are you? The user said: assistant\n\nUser: one two three  four.\n"


def template_of(family: str) -> str:
    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates" / f"{family}.jinja").read_text("utf-8")


@cache
def family_tokenizer(family: str) -> Any:
    """Return a tokenizer with the family's template; what it writes like a token is one."""
    source = template_of(family)
    tokenizer = plain_tokenizer()
    tokenizer.add_tokens(
        [
            AddedToken(text, special=not any(word in text for word in _SPOKEN), normalized=False)
            for text in sorted(set(_MARKER.findall(source)))
        ]
    )
    tokenizer.chat_template = source
    return tokenizer


def plain_tokenizer() -> Any:
    """Return a byte-level tokenizer with <bos> and <eos> and no template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator([_SAMPLE] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>")


def sentencepiece_tokenizer(family: str, prefix: Literal["first", "always", "never"]) -> Any:
    """Return a tokenizer of SentencePiece's kind, which may put a space before each text."""
    letters = [chr(code) for code in range(33, 127)]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", *byte_tokens],
        initial_alphabet=[*letters, "▁"],
        show_progress=False,
    )
    bpe.train_from_iterator([_SAMPLE] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>")
    tokenizer.add_tokens(sorted(set(_MARKER.findall(template_of(family)))), special_tokens=True)
    tokenizer.chat_template = template_of(family)
    return tokenizer


def answers(stream: Any) -> list[tuple[int, int]]:
    """Return `[first, end)` of each run of learnt tokens."""
    runs: list[tuple[int, int]] = []
    for i, weight in enumerate(stream.weights):
        if weight and runs and runs[-1][1] == i:
            runs[-1] = (runs[-1][0], i + 1)
        elif weight:
            runs.append((i, i + 1))
    return runs
