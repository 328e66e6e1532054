"""Pooling a pack gives what transformers' own classifiers give on padded inputs."""

import pytest
import torch
from tests.tiny import DECODERS, ENCODERS, tiny_bert, tiny_llama, tiny_model

from tunesmith.errors import ModelError
from tunesmith.models.heads import FeatureHead, head_of, pool_documents, token_outputs
from tunesmith.models.seeded import seeded

DOCUMENTS = [[7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17, 18, 19, 20], [21]]
TAGGERS = [family for family in (*DECODERS, *ENCODERS) if family not in ("opt", "gemma3")]
CU_SEQLENS = torch.tensor([0, 5, 7, 14, 15], dtype=torch.int32)


def packed_hidden(model) -> torch.Tensor:
    """Hidden states of the documents, each run alone, end to end."""
    return torch.cat([model.body(input_ids=torch.tensor([ids]))[0][0] for ids in DOCUMENTS])


def padded_logits(model) -> torch.Tensor:
    width = max(map(len, DOCUMENTS))
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids in DOCUMENTS])
    real = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in DOCUMENTS])
    return model.module(input_ids=ids, attention_mask=real).logits


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_packed_pooling_equals_the_stock_head_on_padded_inputs(family):
    model = tiny_model(family, "classification", ("a", "b", "c"), dtype=torch.float64)
    with torch.no_grad():
        ours = pool_documents(model, packed_hidden(model), CU_SEQLENS)
        stock = padded_logits(model)
    assert stock.std() > 1e-3
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-10)


POINTERS = ("gpt2", "opt", "gpt_neox", "falcon", "mistral", *ENCODERS)


@pytest.mark.parametrize("family", POINTERS)
def test_beginnings_and_ends_equal_those_of_the_stock_head(family):
    model = tiny_model(family, "extraction", dtype=torch.float64)
    with torch.no_grad():
        ours = token_outputs(model, packed_hidden(model)).split([len(ids) for ids in DOCUMENTS])
        for ids, outputs in zip(DOCUMENTS, ours, strict=True):
            stock = model.module(input_ids=torch.tensor([ids]))
            expected = torch.stack((stock.start_logits[0], stock.end_logits[0]), -1)
            torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", TAGGERS)
def test_outputs_of_each_token_equal_those_of_the_stock_head(family):
    model = tiny_model(family, "tagging", ("a", "b", "c"), dtype=torch.float64)
    assert head_of(model.module) == "tagging"
    with torch.no_grad():
        ours = token_outputs(model, packed_hidden(model))
        rows = zip(padded_logits(model), DOCUMENTS, strict=True)
        stock = torch.cat([logits[: len(ids)] for logits, ids in rows])
    assert stock.std() > 1e-3
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ENCODERS)
def test_dropout_of_the_head_is_active_in_training_only(family):
    model = tiny_model(family, "classification", ("a", "b"), dropout=0.5)
    hidden = packed_hidden(model).detach()
    with seeded(0):
        resting = [pool_documents(model, hidden, CU_SEQLENS) for _ in range(2)]
        model.module.train()
        training = [pool_documents(model, hidden, CU_SEQLENS) for _ in range(2)]
    assert torch.equal(*resting)
    assert not torch.equal(*training)


def test_a_float32_head_reads_a_bfloat16_body():
    model = tiny_bert(labels=("a", "b"), dtype=torch.bfloat16)
    for name in model.anatomy.task_modules:
        model.module.get_submodule(name).float()
    outputs = pool_documents(model, torch.randn(15, 32).bfloat16(), CU_SEQLENS)
    assert outputs.dtype == torch.float32


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_feature_head_pools_each_document_alone(pooling):
    hidden = torch.randn(15, 4, generator=torch.Generator().manual_seed(0))
    features = FeatureHead(4, 2, pooling).pool(hidden, CU_SEQLENS)
    parts = hidden.split([len(ids) for ids in DOCUMENTS])
    expected = {
        "mean": [part.mean(0) for part in parts],
        "cls": [part[0] for part in parts],
        "last": [part[-1] for part in parts],
    }[pooling]
    torch.testing.assert_close(features, torch.stack(expected))


def test_a_model_that_writes_text_has_no_class_to_name():
    model = tiny_llama()
    with pytest.raises(ModelError, match="no head that names a class"):
        pool_documents(model, torch.zeros(15, 32), CU_SEQLENS)
    with pytest.raises(ModelError, match="no head that speaks of tokens"):
        token_outputs(model, torch.zeros(15, 32))
