"""Encoder-decoders: where things are, what learns, and that others load what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import CONTEXT, ENCODER_DECODERS, HIDDEN, tiny_model, tiny_model_folder
from transformers import AutoModelForSeq2SeqLM

from tunesmith.console import Console
from tunesmith.errors import ModelError, RecipeError
from tunesmith.models.adapters import rescaled
from tunesmith.models.altered import altered, make_operation
from tunesmith.models.load import load_model, load_result
from tunesmith.models.resolve import Resolved, of_folder
from tunesmith.models.saving import verify_saved
from tunesmith.models.seeded import seeded
from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.full import Full
from tunesmith.techniques.layers import Layers

STACKS = {"t5": ("encoder", "decoder")} | dict.fromkeys(
    ("bart", "marian"), ("model.encoder", "model.decoder")
)
SUITED = ("full", "layers", "lora", "ia3", "oft", "vera")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Resolved]:
    folder = tmp_path_factory.mktemp("pairs")
    return {
        family: of_folder(tiny_model_folder(folder, family), family, "folder")
        for family in ENCODER_DECODERS
    }


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_the_anatomy_has_the_layers_of_both_stacks(family):
    model = tiny_model(family, "seq2seq_lm")
    anatomy = model.anatomy
    encoder, decoder = STACKS[family]
    assert (anatomy.kind, anatomy.encoder, anatomy.decoder) == ("encoder-decoder", encoder, decoder)
    stacks = [layer.name.rsplit(".", 2)[0] for layer in anatomy.layers]
    assert stacks == [encoder, encoder, decoder, decoder]
    assert [len(layer.attentions) for layer in anatomy.layers] == [1, 1, 2, 2]
    assert (anatomy.hidden_size, anatomy.output, anatomy.tied) == (HIDDEN, "lm_head", True)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_the_embedding_is_named_as_its_parameter_is(family):
    model = tiny_model(family, "seq2seq_lm")
    assert f"{model.anatomy.embeddings}.weight" in dict(model.module.named_parameters())


def test_relative_positions_have_no_end_and_learned_ones_do():
    assert tiny_model("t5", "seq2seq_lm").anatomy.context_length > 10**6
    assert tiny_model("bart", "seq2seq_lm").anatomy.context_length == CONTEXT


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_ia3_finds_keys_values_and_inner_values_in_both_stacks(family):
    model = tiny_model(family, "seq2seq_lm")
    attention, inner = rescaled(model)
    assert len(attention) == 2 * (2 + 4)
    assert len(inner) == 4


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_the_last_layer_is_the_decoders(family):
    model = tiny_model(family, "seq2seq_lm")
    Layers(Layers.Options(last=1)).prepare(model)
    learns = {n for n, p in model.module.named_parameters() if p.requires_grad}
    own = (model.anatomy.layers[-1].name, *model.anatomy.final_norms)
    assert learns
    assert all(name.startswith(own) for name in learns)


def test_positions_that_the_family_computes_do_not_learn():
    model = tiny_model("marian", "seq2seq_lm")
    Full().prepare(model)
    frozen = {n for n, p in model.module.named_parameters() if not p.requires_grad}
    assert frozen == {f"model.{stack}.embed_positions.weight" for stack in ("encoder", "decoder")}


@pytest.mark.parametrize("technique", SUITED)
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_what_is_saved_is_what_others_and_we_load(folders, tmp_path, family, technique):
    member = TECHNIQUES.get(technique)()
    assert member.refuses("seq2seq_lm", "encoder-decoder") is None
    model = load_model(folders[family], head="seq2seq_lm")
    with seeded(0), torch.no_grad():
        member.prepare(model)
        for parameter in model.module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    member.save(model, tmp_path / "model")
    assert verify_saved(model, tmp_path / "model", [10, 11, 12]) == pytest.approx(0, abs=1e-5)
    ids = torch.tensor([[20, 21, 22, 23]])
    with torch.no_grad():
        ours, again = model.hidden(ids), load_result(tmp_path / "model").hidden(ids)
        stock = load_model(folders[family], head="seq2seq_lm").hidden(ids)
    assert torch.allclose(again, ours, atol=1e-5)
    assert not torch.allclose(ours, stock, atol=1e-3)
    if technique in ("full", "layers"):
        assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").config.use_cache


def test_every_technique_suits_or_says_why_not():
    for member in TECHNIQUES:
        reason = member.refuses("seq2seq_lm", "encoder-decoder")
        assert (reason is None) or (member.name not in SUITED and "choose" in reason), member.name


@pytest.mark.parametrize("head", ["causal_lm", "classification", "tagging", "extraction",
                                  "embedding", "features"])  # fmt: skip
def test_other_heads_refuse_it_and_say_what_it_is_for(folders, head):
    with pytest.raises(ModelError, match="writes another, which the task seq2seq trains"):
        load_model(folders["t5"], head=head)


def test_a_decoder_is_no_encoder_decoder(tmp_path):
    source = of_folder(tiny_model_folder(tmp_path, "bert"), "bert", "folder")
    with pytest.raises(ModelError, match="needs an encoder-decoder or a decoder"):
        load_model(source, head="seq2seq_lm")


@pytest.mark.parametrize("operation", [
    {"name": "drop", "layers": [0]}, {"name": "duplicate", "layers": [1]},
    {"name": "vocabulary", "add": ["zebra"]}, {"name": "heads", "keep": 2},
    {"name": "context", "length": 256, "scaling": "linear"},
], ids=lambda operation: operation["name"])  # fmt: skip
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_operations_that_do_not_suit_two_stacks_say_so(
    folders, tmp_path, monkeypatch, family, operation
):
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    with pytest.raises(RecipeError):
        altered(folders[family], [make_operation(operation)], Console(quiet=True))


@pytest.mark.parametrize("operation", [{"name": "dropout", "rate": 0.1},
                                       {"name": "width", "size": 64}],
                         ids=lambda operation: operation["name"])  # fmt: skip
def test_operations_that_suit_leave_a_model_that_loads(folders, tmp_path, monkeypatch, operation):
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    source = altered(folders["t5"], [make_operation(operation)], Console(quiet=True))
    assert load_model(source, head="seq2seq_lm").head == "seq2seq_lm"


def test_more_layers_in_the_files_than_in_the_configuration_are_an_error(folders, tmp_path):
    import json
    import shutil

    folder = tmp_path / "short"
    shutil.copytree(folders["bart"].path, folder)
    file = Path(folder / "config.json")
    config = json.loads(file.read_text()) | {"decoder_layers": 1}
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="more layers than its configuration"):
        load_model(of_folder(folder, "short", "folder"), head="seq2seq_lm")
