"""Tiny random models of every family that the tests care about, built from nothing in moments.

    tiny_model("llama")                         a loaded `Model` in memory
    tiny_model("bert", head="classification", labels=("a", "b"))
    tiny_model_folder(tmp_path, family="gpt2")  a folder that `resolve` and `load_model` take

Hidden size 32, two layers, a byte-level tokenizer that reads any text (and, for decoders, has a
chat template). Weights are drawn from a seed, larger than usual, so that differences show.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
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
    PreTrainedTokenizerFast,
)

from tunesmith.models.anatomy import study
from tunesmith.models.heads import HEADS as KNOWN
from tunesmith.models.heads import FeatureHead, FeatureModel
from tunesmith.models.model import Model
from tunesmith.models.quiet import quiet
from tunesmith.models.resolve import Resolved
from tunesmith.models.seeded import seeded

HIDDEN, LAYERS, HEADS, CONTEXT = 32, 2, 4, 128

DECODERS = (
    "llama", "qwen2", "qwen3", "gemma3", "mistral", "phi3", "opt", "gpt2", "gpt_neox", "falcon",
)  # fmt: skip
MIXTURES = ("mixtral",)
"""Decoders of experts, which not every test of decoders is for."""
ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2")
ENCODER_DECODERS = ("t5", "bart", "marian")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SPECIAL = ("<pad>", "<|im_start|>", "<|im_end|>", "<unk>", "<cls>", "<sep>")

_LLAMA_LIKE = {
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_BERT_LIKE = {"intermediate_size": 48, "max_position_embeddings": CONTEXT, "pad_token_id": 0}
_PAIR_LIKE = {
    "d_model": HIDDEN,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "eos_token_id": 5,
    "forced_eos_token_id": 5,
    "init_std": 0.2,
}
_PAIRS = {
    "t5": {
        "d_model": HIDDEN,
        "d_kv": HIDDEN // HEADS,
        "d_ff": 48,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
        "pad_token_id": 0,
        "eos_token_id": 5,
        "decoder_start_token_id": 0,
    },
    "bart": {**_PAIR_LIKE, "bos_token_id": 4, "decoder_start_token_id": 5},
    "marian": {
        **_PAIR_LIKE,
        "bos_token_id": None,
        "decoder_start_token_id": 0,
        "scale_embedding": True,
    },
}


@cache
def tiny_tokenizer(encoder: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are the bytes of the text, after its special tokens.

    Args:
        encoder: put `<cls>` before and `<sep>` behind every text, and have no chat template.
    """
    core, vocabulary = _bytes()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": CONTEXT}
    if encoder:
        core.post_processor = processors.TemplateProcessing(
            single="<cls> $A <sep>",
            pair="<cls> $A <sep> $B:1 <sep>:1",
            special_tokens=[(token, vocabulary[token]) for token in ("<cls>", "<sep>")],
        )
        names |= {"cls_token": "<cls>", "sep_token": "<sep>", "mask_token": "<|im_start|>"}
    else:
        names |= {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    if not encoder:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@cache
def tiny_pair_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Return the like for an encoder-decoder: `<sep>` ends a text, BART's begins with `<cls>`."""
    core, vocabulary = _bytes()
    begins = family == "bart"
    core.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>" if begins else "$A <sep>",
        special_tokens=[(token, vocabulary[token]) for token in ("<cls>", "<sep>")],
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<sep>"}
    if begins:
        names["bos_token"] = "<cls>"
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=CONTEXT, **names)


def _bytes() -> tuple[Tokenizer, dict[str, int]]:
    """Return a tokenizer of single bytes without names for its special tokens, and its tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    return core, vocabulary


def tiny_config(family: str, *, dropout: float = 0.0, **changes: Any) -> Any:
    """Return the configuration of a tiny model.

    Args:
        family: one of `DECODERS`, `MIXTURES`, `ENCODERS` or `ENCODER_DECODERS`.
        dropout: every dropout that the family has.
        changes: fields of the family's configuration.
    """
    special = {
        "gemma3": {**_LLAMA_LIKE, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
        "qwen3": {**_LLAMA_LIKE, "head_dim": 8},
        "opt": {
            "ffn_dim": 48,
            "word_embed_proj_dim": HIDDEN,
            "max_position_embeddings": CONTEXT,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        "gpt2": {"n_positions": CONTEXT, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        "gpt_neox": {**_LLAMA_LIKE, "num_key_value_heads": None},
        "mixtral": {**_LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2},
        "falcon": {**_LLAMA_LIKE, "num_key_value_heads": None, "alibi": False},
        "roberta": {**_BERT_LIKE, "max_position_embeddings": CONTEXT + 1, "type_vocab_size": 1},
        "distilbert": {
            "dim": HIDDEN,
            "n_layers": LAYERS,
            "n_heads": HEADS,
            "hidden_dim": 48,
            "max_position_embeddings": CONTEXT,
            "pad_token_id": 0,
        },
        "deberta-v2": {**_BERT_LIKE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        "bert": _BERT_LIKE,
        **_PAIRS,
    }.get(family, _LLAMA_LIKE)
    sizes = {"vocab_size": len(tiny_tokenizer()), "hidden_size": HIDDEN}
    depth = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    fields = {k: v for k, v in {**sizes, **depth, **special}.items() if v is not None}
    if family == "distilbert" or family in _PAIRS:
        fields = {k: v for k, v in fields.items() if k not in ("hidden_size", *depth)}
    name = {"gemma3": "gemma3_text"}.get(family, family)
    config = AutoConfig.for_model(name, **{**fields, **changes})
    for field in list(config.to_dict()):
        if "drop" in field and isinstance(getattr(config, field), float | int):
            setattr(config, field, dropout)
    config.initializer_range = 0.2
    return config


def tiny_module(
    family: str, head: str = "causal_lm", labels: Sequence[str] = (), seed: int = 0, **options: Any
) -> nn.Module:
    """Return a random module of `family` with a head, in eval mode; equal for equal seeds."""
    config = tiny_config(family, **options)
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
        config.problem_type = KNOWN[head].problem
    kinds = {
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
    with seeded(seed):
        module = kinds[head].from_config(config)
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):  # zero at the start, so that an unused one would not show
                nn.init.normal_(parameter, std=0.1)
        if hasattr(module, "final_logits_bias"):
            nn.init.normal_(module.final_logits_bias, std=0.1)
    module.config.use_cache = False
    if head == "features":
        pooling = "mean" if family in ENCODERS else "last"
        module = FeatureModel(module, FeatureHead(HIDDEN, len(labels) or 2, pooling))
    return module.eval()


def tiny_model(
    family: str = "llama",
    head: str = "causal_lm",
    labels: Sequence[str] = (),
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Model:
    """Return a tiny random `Model` that no file stands behind."""
    module = tiny_module(family, head, labels, seed, **options).to(dtype)
    tokenizer = copy.deepcopy(_tokenizer(family))  # a task may give it another template
    source = Resolved(f"tiny-{family}", Path("/nowhere"), "folder", "0" * 64)
    model = Model(module, tokenizer, study(module), source)
    if head == "embedding":
        model.pooling = "mean" if family in ENCODERS else "last"
    return model


def _tokenizer(family: str) -> PreTrainedTokenizerFast:
    pair = family in ENCODER_DECODERS
    return tiny_pair_tokenizer(family) if pair else tiny_tokenizer(family in ENCODERS)


def tiny_llama(**options: Any) -> Model:
    """Return a tiny decoder."""
    return tiny_model("llama", **options)


def tiny_bert(labels: Sequence[str] = ("no", "yes"), **options: Any) -> Model:
    """Return a tiny encoder with a classification head."""
    return tiny_model("bert", "classification", labels, **options)


def tiny_model_folder(tmp_path: Path, family: str = "llama", seed: int = 0, **options: Any) -> Path:
    """Save a tiny pre-trained model, with its tokenizer, and return its folder.

    Models that write are saved with their vocabulary layer, encoders as the bare body;
    `masked-bert` and its like with the layer that fills in words.
    """
    folder = tmp_path / f"tiny-{family}-{seed}"
    is_masked, family = family.startswith("masked-"), family.removeprefix("masked-")
    heads = dict.fromkeys(ENCODERS, "features") | dict.fromkeys(ENCODER_DECODERS, "seq2seq_lm")
    head = "masked_lm" if is_masked else heads.get(family, "causal_lm")
    module: Any = tiny_module(family, head, seed=seed, **options)
    module = module.body if isinstance(module, FeatureModel) else module
    module.config.use_cache = True
    with quiet():
        module.save_pretrained(folder)
    _tokenizer(family).save_pretrained(folder)
    return folder
