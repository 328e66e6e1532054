"""What is saved loads with the ecosystem's own readers and gives the same logits."""

import json

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    AutoPeftModelForQuestionAnswering,
    AutoPeftModelForSequenceClassification,
    AutoPeftModelForTokenClassification,
)
from tests.tiny import DECODERS, ENCODERS, tiny_model_folder
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from tunesmith.errors import ModelError, RunError
from tunesmith.models.heads import own_outputs
from tunesmith.models.load import load_model, load_result
from tunesmith.models.resolve import resolve
from tunesmith.models.saving import set_stop_tokens, verify_saved
from tunesmith.models.seeded import seeded
from tunesmith.registry import TECHNIQUES

IDS = [7, 8, 9, 30, 31]
LABELS = ("no", "yes", "maybe")


def named(head):
    return () if head in ("causal_lm", "extraction") else LABELS


def trained(folder, technique, head="causal_lm", dtype=torch.float32, **options):
    """A model whose learning parameters moved, and its technique."""
    model = load_model(resolve(str(folder)), head=head, labels=named(head), dtype=dtype)
    kind = TECHNIQUES.get(technique)
    method = kind(kind.Options(**options))
    with seeded(1):
        method.prepare(model)
        for parameter in model.module.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    return model, method


def logits(module):
    with torch.no_grad():
        return own_outputs(module.eval(), input_ids=torch.tensor([IDS]))


READERS = {
    ("full", "causal_lm"): AutoModelForCausalLM,
    ("layers", "causal_lm"): AutoModelForCausalLM,
    ("lora", "causal_lm"): AutoPeftModelForCausalLM,
    ("full", "classification"): AutoModelForSequenceClassification,
    ("layers", "classification"): AutoModelForSequenceClassification,
    ("lora", "classification"): AutoPeftModelForSequenceClassification,
    ("full", "tagging"): AutoModelForTokenClassification,
    ("layers", "tagging"): AutoModelForTokenClassification,
    ("lora", "tagging"): AutoPeftModelForTokenClassification,
    ("full", "extraction"): AutoModelForQuestionAnswering,
    ("layers", "extraction"): AutoModelForQuestionAnswering,
    ("lora", "extraction"): AutoPeftModelForQuestionAnswering,
}
CASES = [("full", "classification", family) for family in (*DECODERS, *ENCODERS)]
CASES += [("lora", "classification", family) for family in ("llama", "gpt2", *ENCODERS)]
CASES += [("lora", "causal_lm", family) for family in DECODERS]
CASES += [("full", "causal_lm", family) for family in ("llama", "gpt2", "gemma3")]
CASES += [("layers", "causal_lm", "phi3"), ("layers", "classification", "bert")]
CASES += [("full", "tagging", family) for family in ("llama", "gpt2", "falcon", *ENCODERS)]
CASES += [("lora", "tagging", family) for family in ("llama", "gpt2", *ENCODERS)]
CASES += [("layers", "tagging", "bert"), ("layers", "extraction", "bert")]
CASES += [("full", "extraction", family) for family in ("gpt2", "opt", "falcon", *ENCODERS)]
CASES += [("lora", "extraction", family) for family in ("gpt2", "opt", *ENCODERS)]


@pytest.mark.parametrize(("technique", "head", "family"), CASES)
def test_a_result_gives_the_same_logits_to_every_reader(tmp_path, technique, head, family):
    base = tiny_model_folder(tmp_path, family)
    model, method = trained(base, technique, head)
    folder = tmp_path / "result"
    method.save(model, folder)
    expected = logits(model.module)
    options = {"num_labels": 3} if "Peft" in READERS[technique, head].__name__ else {}
    with seeded(5):
        stock = READERS[technique, head].from_pretrained(folder, **(options if named(head) else {}))
    assert torch.equal(logits(stock), expected)
    assert torch.equal(logits(load_result(folder).module), expected)
    assert verify_saved(model, folder, IDS) == 0.0
    untrained = load_model(resolve(str(base)), head=head, labels=named(head))
    assert (logits(untrained.module) - expected).abs().max() > 1e-3


def test_repurposed_encoder_gives_its_logits_as_an_embedding(tmp_path):
    from sentence_transformers import SentenceTransformer

    base = tiny_model_folder(tmp_path, "bert")
    model, method = trained(base, "repurpose", "features")
    torch.nn.init.normal_(model.module.head.linear.weight)
    folder = tmp_path / "result"
    method.save(model, folder)
    texts = ["a short one", "another text, which is somewhat longer"]
    embedded = torch.tensor(SentenceTransformer(str(folder), device="cpu").encode(texts))
    for text, row in zip(texts, embedded, strict=True):
        ids = model.tokenizer(text)["input_ids"]
        hidden = model.body(input_ids=torch.tensor([ids]))[0][0]
        ours = model.module.head(hidden, torch.tensor([0, len(ids)]))[0]
        torch.testing.assert_close(row, ours, rtol=1e-4, atol=1e-5)
    assert verify_saved(model, folder, IDS) < 1e-5
    again = load_result(folder)
    assert torch.equal(again.module.head.linear.weight, model.module.head.linear.weight)


@pytest.mark.parametrize("technique", ["full", "layers", "lora"])
def test_what_learnt_in_float32_on_a_bfloat16_base_is_saved_unrounded(tmp_path, technique):
    model, method = trained(tiny_model_folder(tmp_path, "opt"), technique, dtype=torch.bfloat16)
    learnt = {n: p.clone() for n, p in model.module.named_parameters() if p.requires_grad}
    assert {p.dtype for p in learnt.values()} == {torch.float32}
    method.save(model, tmp_path / "result")
    again = dict(load_result(tmp_path / "result").module.named_parameters())
    for name, parameter in learnt.items():
        assert torch.equal(again[name], parameter), name


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path):
    model, method = trained(tiny_model_folder(tmp_path, "gpt2"), "full")
    method.save(model, tmp_path / "result")
    again = load_result(tmp_path / "result")
    assert again.anatomy.tied
    assert again.output_weight_VD is again.module.get_submodule(again.anatomy.embeddings).weight


@pytest.mark.parametrize("technique", ["full", "lora"])
def test_stop_tokens_and_chat_template_go_with_the_result(tmp_path, technique):
    model, method = trained(tiny_model_folder(tmp_path), technique)
    set_stop_tokens(model, [2, 5])
    method.save(model, tmp_path / "result")
    generation = json.loads((tmp_path / "result" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 5]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "result")
    assert tokenizer.chat_template == model.tokenizer.chat_template


def test_a_saved_model_generates_with_a_cache(tmp_path):
    model, method = trained(tiny_model_folder(tmp_path), "full")
    method.save(model, tmp_path / "result")
    assert json.loads((tmp_path / "result" / "config.json").read_text())["use_cache"] is True
    assert model.module.config.use_cache is False


def test_saving_again_replaces_the_folder_whole(tmp_path):
    model, method = trained(tiny_model_folder(tmp_path), "full")
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "stale").write_text("of an earlier run")
    method.save(model, folder)
    assert not (folder / "stale").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_weights_that_are_not_numbers_are_not_saved(tmp_path):
    model, method = trained(tiny_model_folder(tmp_path), "full")
    model.module.model.norm.weight.data[0] = float("inf")
    with pytest.raises(RunError, match=r"not all finite numbers: model\.norm\.weight"):
        method.save(model, tmp_path / "result")
    assert not (tmp_path / "result").exists()


def test_a_difference_between_memory_and_disk_is_measured(tmp_path):
    model, method = trained(tiny_model_folder(tmp_path), "full")
    method.save(model, tmp_path / "result")
    model.module.model.norm.weight.data *= 2
    assert verify_saved(model, tmp_path / "result", IDS) > 0.1


def test_a_saved_folder_that_cannot_be_read_back_is_an_error(tmp_path):
    model, method = trained(tiny_model_folder(tmp_path), "full")
    method.save(model, tmp_path / "result")
    (tmp_path / "result" / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="cannot be loaded again"):
        verify_saved(model, tmp_path / "result", IDS)


def test_an_adapter_on_other_weights_is_refused(tmp_path):
    base = tiny_model_folder(tmp_path)
    model, method = trained(base, "lora")
    method.save(model, tmp_path / "result")
    other = tiny_model_folder(tmp_path / "elsewhere", seed=1)
    (other / "model.safetensors").replace(base / "model.safetensors")
    with pytest.raises(ModelError, match="trained on other weights"):
        load_result(tmp_path / "result")


def test_an_adapter_that_changes_nothing_is_refused(tmp_path):
    model, method = trained(tiny_model_folder(tmp_path), "lora")
    for name, parameter in model.module.named_parameters():
        if ".lora_B." in name:
            parameter.data.zero_()
    method.save(model, tmp_path / "result")
    with pytest.raises(ModelError, match="changes nothing"):
        load_result(tmp_path / "result")


def test_an_adapter_with_missing_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    model, method = trained(tiny_model_folder(tmp_path), "lora")
    method.save(model, tmp_path / "result")
    file = tmp_path / "result" / "adapter_model.safetensors"
    weights = load_file(file)
    weights.popitem()
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"adapter cannot be loaded.*missing"):
        load_result(tmp_path / "result")


def test_a_folder_that_is_no_result_is_refused(tmp_path):
    with pytest.raises(ModelError, match="not the result of a run"):
        load_result(tiny_model_folder(tmp_path))
