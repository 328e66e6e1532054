"""Loading puts the head of the task on all of the pre-trained weights, or says why it cannot."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import DECODERS, ENCODERS, tiny_model_folder
from transformers import AutoModelForCausalLM

from tunesmith.errors import ModelError
from tunesmith.models.load import load_model
from tunesmith.models.resolve import resolve


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load(folder, head="causal_lm", labels=(), **options):
    return load_model(resolve(str(folder)), head=head, labels=labels, **options)


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_loads_with_the_weights_of_its_files(tmp_path, family):
    folder = tiny_model_folder(tmp_path, family)
    model = load(folder)
    stock = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([[7, 8, 9]])
    assert torch.equal(model.module(input_ids=ids).logits, stock(input_ids=ids).logits)
    assert not model.module.training
    assert model.module.config.use_cache is False


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_every_family_loads_as_a_classifier_with_named_classes(tmp_path, family):
    model = load(tiny_model_folder(tmp_path, family), "classification", ("no", "yes", "maybe"))
    assert model.module.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert model.module(input_ids=torch.tensor([[7, 8, 9]])).logits.shape == (1, 3)


@pytest.mark.parametrize("family", ["opt", "gemma3"])
def test_a_family_without_a_head_on_tokens_is_refused(tmp_path, family):
    with pytest.raises(ModelError, match="no head on tokens for the family"):
        load(tiny_model_folder(tmp_path, family), "tagging", ("O", "B-A", "I-A"))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_family_whose_head_would_not_read_its_files_is_refused(tmp_path, family):
    with pytest.raises(ModelError, match="calls the body by another name than its files do"):
        load(tiny_model_folder(tmp_path, family), "extraction")


def test_a_tagger_keeps_its_head_where_the_tags_are_the_same(tmp_path):
    tags = ("O", "B-A", "I-A")
    model = load(tiny_model_folder(tmp_path, "bert"), "tagging", tags)
    model.module.save_pretrained(tmp_path / "tagger")
    model.tokenizer.save_pretrained(tmp_path / "tagger")
    again, other = (
        load(tmp_path / "tagger", "tagging", names, seed=9) for names in (tags, tags[::-1])
    )
    assert torch.equal(again.module.classifier.weight, model.module.classifier.weight)
    assert not torch.equal(other.module.classifier.weight, model.module.classifier.weight)


def test_a_new_head_depends_on_the_seed_alone(tmp_path):
    folder = tiny_model_folder(tmp_path, "bert")

    def head(seed, drawn_before):
        torch.randn(drawn_before)
        return load(folder, "classification", ("a", "b"), seed=seed).module.classifier.weight

    assert torch.equal(head(1, 3), head(1, 5))
    assert not torch.equal(head(1, 0), head(2, 0))


def test_loading_leaves_the_global_generator_as_it_was(tmp_path):
    folder = tiny_model_folder(tmp_path, "bert")
    torch.manual_seed(3)
    expected = torch.randn(2)
    torch.manual_seed(3)
    load(folder, "classification", ("a", "b"), seed=9)
    assert torch.equal(torch.randn(2), expected)


def test_a_classifier_of_the_same_classes_keeps_its_head(tmp_path):
    model = load(tiny_model_folder(tmp_path, "bert"), "classification", ("a", "b"), seed=1)
    model.module.save_pretrained(tmp_path / "tuned")
    model.tokenizer.save_pretrained(tmp_path / "tuned")
    same = load(tmp_path / "tuned", "classification", ("a", "b"), seed=2)
    assert torch.equal(same.module.classifier.weight, model.module.classifier.weight)


@pytest.mark.parametrize("labels", [("b", "a"), ("a", "b", "c")])
def test_a_classifier_of_other_classes_gets_a_new_head(tmp_path, labels):
    model = load(tiny_model_folder(tmp_path, "bert"), "classification", ("a", "b"), seed=1)
    model.module.save_pretrained(tmp_path / "tuned")
    model.tokenizer.save_pretrained(tmp_path / "tuned")
    other = load(tmp_path / "tuned", "classification", labels, seed=2).module.classifier.weight
    assert other.shape[0] == len(labels)
    assert not torch.equal(other[:2], model.module.classifier.weight)


def test_features_start_with_a_map_of_zeros(tmp_path):
    model = load(tiny_model_folder(tmp_path, "bert"), "features", ("a", "b"))
    assert model.module.head.pooling == "mean"
    assert not model.module.head.linear.weight.any()


def test_features_are_pooled_as_the_model_was_made_to_be(tmp_path):
    folder = tiny_model_folder(tmp_path, "bert")
    (folder / "1_Pooling").mkdir()
    stated = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(stated))
    assert load(folder, "features", ("a", "b")).module.head.pooling == "cls"


def test_weights_come_in_the_precision_asked_for(tmp_path):
    model = load(tiny_model_folder(tmp_path), dtype=torch.bfloat16)
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}


def test_loading_writes_nothing_to_the_terminal(tmp_path, capfd):
    load(tiny_model_folder(tmp_path, "bert"), "classification", ("a", "b"))
    assert capfd.readouterr() == ("", "")


def test_a_classifier_has_a_padding_token_for_other_readers(tmp_path):
    folder = tiny_model_folder(tmp_path, "gpt2")
    edit_config(folder, pad_token_id=None)
    model = load(folder, "classification", ("a", "b"))
    assert model.module.config.pad_token_id == model.tokenizer.pad_token_id


def test_a_missing_weight_is_an_error(tmp_path):
    folder = tiny_model_folder(tmp_path)
    edit_weights(folder, lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"missing .* model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_a_weight_of_another_shape_is_an_error(tmp_path):
    folder = tiny_model_folder(tmp_path)
    edit_weights(folder, lambda w: w.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


def test_a_weight_of_another_shape_is_an_error_for_classifiers_too(tmp_path):
    folder = tiny_model_folder(tmp_path)
    edit_weights(folder, lambda w: w.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(ModelError, match="another shape"):
        load(folder, "classification", ("a", "b"))


def test_more_layers_than_the_configuration_says_is_an_error(tmp_path):
    folder = tiny_model_folder(tmp_path)
    edit_config(folder, num_hidden_layers=1)
    with pytest.raises(ModelError, match="hold more layers"):
        load(folder)


def test_a_weight_that_is_not_a_number_is_an_error(tmp_path):
    folder = tiny_model_folder(tmp_path)
    edit_weights(folder, lambda w: w["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(ModelError, match=r"not all finite numbers: model\.norm\.weight"):
        load(folder)


def test_a_tokenizer_with_more_tokens_than_the_model_is_an_error(tmp_path):
    folder = tiny_model_folder(tmp_path, vocab_size=200)
    with pytest.raises(ModelError, match="262 tokens, the model only 200"):
        load(folder)


def test_a_missing_tokenizer_is_an_error(tmp_path):
    folder = tiny_model_folder(tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"tokenizer of .* cannot be read"):
        load(folder)


def test_damaged_weights_are_an_error(tmp_path):
    folder = tiny_model_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


def test_a_broken_configuration_is_an_error(tmp_path):
    folder = tiny_model_folder(tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="configuration cannot be read"):
        load(folder)


def test_quantised_weights_are_refused(tmp_path):
    folder = tiny_model_folder(tmp_path)
    edit_config(folder, quantization_config={"quant_method": "odd"})
    with pytest.raises(ModelError, match=r"quantised \(odd\)"):
        load(folder)


@pytest.mark.parametrize(
    ("config", "head", "message"),
    [
        ({"model_type": "resnet"}, "classification", "image model .* Choose an encoder"),
        ({"architecture": "resnet50"}, "causal_lm", "image model .* Choose a decoder"),
        ({"model_type": "clip"}, "classification", "reads images beside text"),
        ({"model_type": "whisper"}, "causal_lm", "sound model"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "causal_lm", "encoder-decoder"),
        ({"model_type": "bert"}, "causal_lm", "writes none.* Choose a decoder"),
        ({"model_type": "never-heard-of"}, "features", "of a kind that is not known"),
        ({}, "features", "of a kind that is not known"),
    ],
)
def test_a_model_that_does_not_suit_is_refused_with_a_better_choice(
    tmp_path, config, head, message
):
    folder = tiny_model_folder(tmp_path)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        load(folder, head, ("a", "b"))
