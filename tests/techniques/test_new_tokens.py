"""Rows of added tokens learn beside an adapter: only these, and only these are saved."""

import itertools

import peft
import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import HIDDEN, tiny_model_folder

from tunesmith.console import Console
from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.engine import Engine
from tunesmith.engine.optimizer import AdamWOptions
from tunesmith.errors import RecipeError
from tunesmith.models.adapters import without_adapter
from tunesmith.models.altered import altered, make_operation
from tunesmith.models.load import load_model, load_result
from tunesmith.models.resolve import resolve
from tunesmith.models.seeded import seeded
from tunesmith.registry import OBJECTIVES
from tunesmith.techniques.lora import Lora

WORDS = {"name": "vocabulary", "add": ["zebra"], "special": ["<tool>"]}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "cache"))


def with_tokens(tmp_path, family, **options):
    base = tiny_model_folder(tmp_path, family, **options)
    source = altered(resolve(str(base)), [make_operation(WORDS)], Console(quiet=True))
    return load_model(source, head="causal_lm")


def prepared(model):
    method = Lora(Lora.Options(rank=2, new_tokens=True))
    with seeded(0):
        method.prepare(model)
    return method


def batch(model):
    """Two texts that have the new tokens as inputs and as targets."""
    new = model.tokenizer.convert_tokens_to_ids(["zebra", "<tool>"])
    rows = [[7, new[0], 9, new[1], 12], [20, new[1], new[0]]]
    return collate([Encoded({"text": EncodedStream(tuple(r), (1.0,) * len(r))}) for r in rows])


def learn(model, method, **options):
    engine = Engine(model, method.parameter_groups(model), AdamWOptions(weight_decay=0), **options)
    objective = OBJECTIVES.get("token_likelihood")()
    for _ in range(2):
        engine.forward_backward(batch(model), objective, objective.counts(batch(model)))
        engine.optimizer_step(0.01)


@torch.no_grad()
def logits(module, ids):
    return module.eval()(input_ids=torch.tensor([ids])).logits


@pytest.mark.parametrize(
    ("family", "tied"), [("llama", False), ("llama", True), ("gpt2", True), ("gemma3", True)]
)
def test_only_the_new_rows_learn_and_peft_gives_the_same_logits(tmp_path, family, tied):
    model = with_tokens(tmp_path, family, tie_word_embeddings=tied)
    rows = len(model.tokenizer)
    new = model.tokenizer.convert_tokens_to_ids(["zebra", "<tool>"])
    table = model.module.get_submodule(model.anatomy.embeddings).weight.detach().clone()
    ids = [7, *new, 30]
    base = logits(model.module, ids)
    method = prepared(model)
    torch.testing.assert_close(logits(model.module, ids), base)
    learn(model, method)

    after = model.module.get_submodule(model.anatomy.embeddings)(torch.arange(rows)).detach()
    scale = HIDDEN**0.5 if family == "gemma3" else 1.0
    changed = (after - table * scale).abs().amax(dim=1) > 1e-6
    assert changed.nonzero()[:, 0].tolist() == sorted(new)
    with without_adapter(model):
        torch.testing.assert_close(logits(model.module, ids), base)

    method.save(model, tmp_path / "result")
    saved = load_file(tmp_path / "result" / "adapter_model.safetensors")
    tables = [t for name, t in saved.items() if "token" in name]
    assert [tuple(t.shape) for t in tables] == [(2, HIDDEN)] * (1 if tied else 2)
    assert all(len(t) != rows for t in saved.values())
    expected = logits(model.module, ids)
    read = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "result")
    torch.testing.assert_close(logits(read, ids), expected, atol=1e-5, rtol=1e-5)
    again = load_result(tmp_path / "result").module
    torch.testing.assert_close(logits(again, ids), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_new_rows_are_those_of_the_model_itself(tmp_path, tied):
    model = with_tokens(tmp_path, "llama", tie_word_embeddings=tied)
    method = prepared(model)
    texts = batch(model)
    objective = OBJECTIVES.get("token_likelihood")()
    engine = Engine(model, method.parameter_groups(model), AdamWOptions())
    engine.forward_backward(texts, objective, objective.counts(texts))
    learning = {n: p for n, p in model.module.named_parameters() if p.requires_grad}
    ours = {name: p.grad.clone() for name, p in learning.items()}

    model.module.zero_grad()
    rows = [stream.tolist() for stream in _texts(texts)]
    total = sum(len(row) - 1 for row in rows)
    for row in rows:
        ids = torch.tensor([row])
        own = model.module(input_ids=ids, labels=ids).loss * (len(row) - 1) / total
        own.backward()
    for name, parameter in learning.items():
        size = parameter.grad.norm()
        assert (ours[name] - parameter.grad).norm() <= 1e-5 * size.clamp(min=1e-6), name


def _texts(texts):
    stream = texts.streams["text"]
    ends = stream.cu_seqlens.tolist()
    return [stream.ids_T[a:b] for a, b in itertools.pairwise(ends)]


def test_without_new_tokens_it_is_refused(tmp_path):
    model = load_model(resolve(str(tiny_model_folder(tmp_path))), head="causal_lm")
    with pytest.raises(RecipeError, match="No token was added to this model"):
        prepared(model)
