"""A model taken apart: every parameter in one part, and the same parts without any weights."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import (
    CONTEXT,
    DECODERS,
    ENCODERS,
    HEADS,
    HIDDEN,
    LAYERS,
    tiny_config,
    tiny_model_folder,
    tiny_module,
    tiny_tokenizer,
)
from transformers import ResNetConfig

from tunesmith.errors import ModelError
from tunesmith.models.anatomy.blueprint import blueprint
from tunesmith.models.anatomy.description import Description, describe
from tunesmith.models.heads import FeatureModel
from tunesmith.models.kinds import DECODER, ENCODER
from tunesmith.models.tokens import Hazard, hazards, tokenizer_facts

FAMILIES = (*DECODERS, *ENCODERS)


def _module(family: str, **options: Any) -> Any:
    module = tiny_module(family, "causal_lm" if family in DECODERS else "features", **options)
    return module.body if isinstance(module, FeatureModel) else module


def _attention(family: str, layer: int = 0) -> Any:
    (stack,) = describe(_module(family)).stacks
    kind = next(kind for kind in stack.kinds if layer in kind.indices)
    (attention,) = kind.attention
    return attention


def _sums(found: Description) -> tuple[int, int]:
    pieces = (*found.parts, *found.stacks)
    return sum(piece.parameters for piece in pieces), sum(piece.bytes for piece in pieces)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_add_up_to_the_whole(family: str) -> None:
    module = _module(family)
    count = sum(parameter.numel() for parameter in module.parameters())
    found = describe(module)
    assert found.parameters == count
    assert _sums(found) == (count, 4 * count)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_layer_holds_adds_up_to_the_layer(family: str) -> None:
    (stack,) = describe(_module(family)).stacks
    assert stack.depth == LAYERS
    for kind in stack.kinds:
        held = kind.attention_parameters, kind.feed_forward_parameters, kind.norm_parameters
        assert min(held) > 0
        assert sum(held) == kind.parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_the_configuration_alone_gives_the_same_parts(family: str, tmp_path: Path) -> None:
    tiny_config(family, architectures=[type(_module(family)).__name__]).save_pretrained(tmp_path)
    assert describe(blueprint(tmp_path, family)) == describe(_module(family))


def test_the_precision_is_that_of_the_configuration(tmp_path: Path) -> None:
    config = tiny_config("llama", architectures=["LlamaForCausalLM"], dtype="bfloat16")
    config.save_pretrained(tmp_path)
    found = describe(blueprint(tmp_path, "llama"))
    assert (found.dtype, found.bytes) == ("bfloat16", 2 * found.parameters)


def test_a_blueprint_holds_no_data(tmp_path: Path) -> None:
    module = blueprint(tiny_model_folder(tmp_path), "llama")
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}


def test_a_family_that_nobody_knows_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "quuxformer"}', encoding="utf-8")
    with pytest.raises(ModelError, match="mine describes no model") as caught:
        blueprint(tmp_path, "mine")
    assert caught.value.where == str(tmp_path / "config.json")


def test_shared_weights_are_counted_once() -> None:
    tied = describe(_module("llama", tie_word_embeddings=True))
    apart = describe(_module("llama", tie_word_embeddings=False))
    assert (tied.tied, apart.tied) == (True, False)
    assert apart.parameters - tied.parameters == HIDDEN * len(tiny_tokenizer())
    assert [part.role for part in apart.parts] == ["embedding", "norm", "output"]
    assert [part.role for part in tied.parts] == ["embedding", "norm"]


@pytest.mark.parametrize(
    ("family", "variant", "key_value_heads"),
    [("llama", "grouped-query", 2), ("gpt2", "multi-head", HEADS), ("phi3", "grouped-query", 2),
     ("falcon", "multi-query", 1), ("bert", "multi-head", HEADS)],
)  # fmt: skip
def test_heads_are_read_from_the_weights(family: str, variant: str, key_value_heads: int) -> None:
    found = _attention(family)
    assert (found.role, found.heads, found.head_size) == ("self", HEADS, HIDDEN // HEADS)
    assert (found.variant, found.key_value_heads) == (variant, key_value_heads)


def test_one_projection_biases_and_norms_of_queries_are_seen() -> None:
    seen = {name: _attention(name) for name in ("llama", "qwen2", "qwen3", "gpt2", "gpt_neox")}
    assert [name for name, found in seen.items() if found.fused] == ["gpt2", "gpt_neox"]
    assert [name for name, found in seen.items() if found.bias] == ["qwen2", "gpt2", "gpt_neox"]
    assert [name for name, found in seen.items() if found.normed] == ["qwen3"]


def test_layers_that_see_a_window_stand_apart() -> None:
    module = _module("gemma3", layer_types=["sliding_attention", "full_attention"])
    (stack,) = describe(module).stacks
    windows = {kind.indices: kind.attention[0].window for kind in stack.kinds}
    assert windows == {(0,): 8, (1,): None}


@pytest.mark.parametrize(
    ("family", "size", "gated"), [("llama", 48, True), ("phi3", 48, True), ("bert", 48, False)]
)
def test_the_feed_forward_part_has_a_width(family: str, size: int, gated: bool) -> None:
    (stack,) = describe(_module(family)).stacks
    found = stack.kinds[0].feed_forward
    assert found is not None
    assert (found.size, found.gated) == (size, gated)


@pytest.mark.parametrize(
    ("family", "positions"),
    [("llama", "rotary"), ("gpt2", "learned"), ("bert", "learned"), ("deberta-v2", "relative")],
)
def test_how_order_is_known_is_named(family: str, positions: str) -> None:
    changes = {"position_biased_input": False} if family == "deberta-v2" else {}
    assert describe(_module(family, **changes)).positions.kind == positions


def test_stretched_positions_are_named() -> None:
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}
    found = describe(_module("llama", rope_parameters=rope)).positions
    assert (found.theta, found.scaling, found.factor) == (5000.0, "linear", 4.0)


def test_sizes_of_the_whole_are_named() -> None:
    found = describe(_module("llama"))
    assert (found.family, found.kind, found.architecture) == ("llama", DECODER, "LlamaForCausalLM")
    assert (found.hidden_size, found.vocab_size) == (HIDDEN, len(tiny_tokenizer()))
    assert found.context_length == CONTEXT


def test_a_network_without_layers_of_attention_is_shown_by_its_stages(tmp_path: Path) -> None:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    ResNetConfig(**sizes, architectures=["ResNetForImageClassification"]).save_pretrained(tmp_path)
    found = describe(blueprint(tmp_path, "resnet"))
    assert found.vocab_size is None
    assert {stack.role for stack in found.stacks} == {"stages"}
    assert _sums(found) == (found.parameters, found.bytes)


def _hazards(
    tokenizer: Any, kind: str = DECODER, context: int | None = CONTEXT, **config: Any
) -> dict[str, Hazard]:
    facts = tokenizer_facts(tokenizer, len(tokenizer))
    return {found.code: found for found in hazards(tokenizer, facts, config, kind, context)}


def _fresh(encoder: bool = False) -> Any:
    """A tokenizer that may be spoilt: the tests share the other."""
    return deepcopy(tiny_tokenizer(encoder))


def test_a_sound_tokenizer_has_no_hazards() -> None:
    assert _hazards(_fresh(), eos_token_id=2, pad_token_id=0) == {}


def test_no_padding_token_is_a_hazard() -> None:
    tokenizer = _fresh()
    tokenizer.pad_token = None
    assert _hazards(tokenizer)["no_pad_token"].level == "note"
    assert _hazards(tokenizer, ENCODER)["no_pad_token"].level == "warning"


def test_padding_that_is_the_end_is_a_hazard() -> None:
    tokenizer = _fresh()
    tokenizer.pad_token = tokenizer.eos_token
    found = _hazards(tokenizer)
    assert set(found) == {"pad_is_end"}
    assert "<|im_end|>" in found["pad_is_end"].what


def test_no_chat_template_is_a_hazard_of_decoders_alone() -> None:
    tokenizer = _fresh()
    tokenizer.chat_template = None
    assert set(_hazards(tokenizer)) == {"no_chat_template"}
    assert "no_chat_template" not in _hazards(tokenizer, ENCODER)


def test_special_tokens_that_are_missing_are_named() -> None:
    tokenizer = _fresh()
    tokenizer.eos_token = None
    assert "no eos token" in _hazards(tokenizer)["missing_special_tokens"].what
    tokenizer = _fresh(True)
    tokenizer.mask_token = None
    assert "no mask token" in _hazards(tokenizer, ENCODER)["missing_special_tokens"].what


def test_a_configuration_that_names_another_end_is_a_hazard() -> None:
    assert set(_hazards(_fresh(), eos_token_id=5)) == {"eos_ids_differ"}
    assert _hazards(_fresh(), eos_token_id=[5, 2]) == {}


def test_a_tokenizer_of_another_model_comes_first_among_hazards() -> None:
    tokenizer = _fresh()
    tokenizer.pad_token = None
    facts = tokenizer_facts(tokenizer, len(tokenizer) - 3)
    first, *others = hazards(tokenizer, facts, {}, DECODER, CONTEXT)
    assert (first.level, first.code) == ("broken", "more_tokens_than_rows")
    assert "3 tokens more" in first.what
    assert [other.code for other in others] == ["no_pad_token"]


def test_a_length_beyond_the_context_is_a_hazard() -> None:
    assert set(_hazards(_fresh(), context=CONTEXT // 2)) == {"longer_than_context"}
    assert _hazards(_fresh(), context=None) == {}


def test_what_a_tokenizer_puts_around_a_text_is_shown() -> None:
    assert tokenizer_facts(_fresh(True), None).adds == "<cls> … <sep>"
    assert tokenizer_facts(_fresh(), None).adds == ""
