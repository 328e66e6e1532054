"""The two packaged models: their files become models that are what they should be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors import safe_open

from tunesmith.models.catalogue import find
from tunesmith.models.fetch import pulled
from tunesmith.models.fingerprint import cache_root
from tunesmith.models.load import load_model
from tunesmith.models.resolve import resolve

pytestmark = [pytest.mark.real_model, pytest.mark.slow]


def gguf_file() -> Path:
    (file,) = (cache_root() / "models").glob("smollm2-135m-instruct-*/*.gguf")
    return file


def test_expanded_weights_are_those_of_the_gguf_file(smollm2_path):
    tensors = {tensor.name: tensor for tensor in GGUFReader(gguf_file()).tensors}
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.3.ffn_down.weight": "model.layers.3.mlp.down_proj.weight",
        "blk.29.attn_v.weight": "model.layers.29.self_attn.v_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    with safe_open(smollm2_path / "model.safetensors", "np") as expanded:
        for theirs, ours in names.items():
            original = dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
            assert np.array_equal(expanded.get_tensor(ours), original), ours
        assert "lm_head.weight" not in expanded.keys()  # noqa: SIM118, no mapping


def test_a_gguf_file_given_by_its_path_is_the_same_model(smollm2_path):
    found = resolve(str(gguf_file()))
    assert (found.path, found.origin) == (smollm2_path, "gguf")


def test_the_chat_model_answers(smollm2_path):
    model = load_model(resolve(str(smollm2_path)), head="causal_lm")
    assert model.anatomy.tied
    assert (
        sum(p.numel() for p in model.module.parameters())
        == find("smollm2-135m-instruct").parameters
    )
    ids = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    said = model.module.generate(
        torch.tensor([ids]), max_new_tokens=12, do_sample=False, use_cache=True
    )
    assert "Paris" in model.tokenizer.decode(said[0, len(ids) :])


def test_the_sentence_encoder_is_pooled_as_it_was_made(minilm_path):
    model = load_model(resolve(str(minilm_path)), head="features", labels=("no", "yes"))
    assert model.module.head.pooling == "mean"
    assert sum(p.numel() for p in model.module.body.parameters()) == find("minilm-l6").parameters
    vectors = []
    for text in ("A cat sleeps.", "A kitten is asleep.", "Interest rates rose again."):
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = model.body(input_ids=ids)[0][0]
        vectors.append(model.module.head.pool(hidden, torch.tensor([0, len(hidden)]))[0])
    near, far = (torch.cosine_similarity(vectors[0], other, dim=0) for other in vectors[1:])
    assert near > 0.6 > 0.3 > far


def test_pulled_models_are_known_to_be_here(smollm2_path, minilm_path):
    for name, path in (("smollm2-135m-instruct", smollm2_path), ("minilm-l6", minilm_path)):
        entry = find(name)
        assert pulled(name, entry.package) == path
