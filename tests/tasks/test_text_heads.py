"""Heads that say something of a whole text: losses, gradients and saved models beside transformers.

One set of tests for single classes, several classes, numbers and rankings, of one text and of two.
"""

from __future__ import annotations

import inspect
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.tiny import DECODERS, tiny_model, tiny_model_folder

from tunesmith.data.batch import collate
from tunesmith.data.records import LabelledText, MultiLabelledText, RankedTexts, ScoredText
from tunesmith.engine.engine import Engine
from tunesmith.models.load import load_model, load_result
from tunesmith.models.model import Model
from tunesmith.models.resolve import resolve
from tunesmith.models.saving import verify_saved
from tunesmith.models.seeded import seeded
from tunesmith.registry import OBJECTIVES, TASKS, TECHNIQUES
from tunesmith.techniques.base import ParameterGroup

TEXTS = ("a painted wall", "the court said so", "salt", "oil, fish and waves")
OTHERS = ("colour", "a judge spoke", "it is dry and white", "sea")
CASES: dict[str, Any] = {
    "classification": lambda i, other: LabelledText(text=TEXTS[i], other=other, label="abca"[i]),
    "multi_label": lambda i, other: MultiLabelledText(
        text=TEXTS[i], other=other, labels=["a", "b", "c"][: i % 4]
    ),
    "regression": lambda i, other: ScoredText(text=TEXTS[i], other=other, score=i - 1.5),
}
PAIRED = {"one": (None,) * 4, "two": OTHERS}
FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2", "llama", "gpt2", "opt")


def bound(name: str, model: Model, records: list[Any], **options: Any) -> Any:
    kind = TASKS.get(name)
    task = kind(kind.Options(**options))
    task.study(records)
    task.bind(model)
    return task


def typed(model: Model) -> Model:
    """The same, with a tokenizer that says in which of two texts a token stands, as BERT's does."""
    tokenizer = deepcopy(model.tokenizer)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return replace(model, tokenizer=tokenizer)


def stock_inputs(model: Model, texts: list[str], others: list[str | None]) -> dict[str, Any]:
    """What a user of transformers would give the model: a padded batch, with types."""
    tokenizer, columns = model.tokenizer, [texts]
    if others[0] is not None:
        joined = model.anatomy.family in DECODERS
        pairs = list(zip(texts, others, strict=True))
        columns = [[f"{a}\n{b}" for a, b in pairs]] if joined else [texts, list(others)]
    given = dict(tokenizer(*columns, padding=True, return_tensors="pt"))
    takes = inspect.signature(model.module.forward).parameters
    if model.anatomy.family in DECODERS or "token_type_ids" not in takes:
        given.pop("token_type_ids", None)
    if getattr(model.module.config, "type_vocab_size", 0) < 2:
        given.pop("token_type_ids", None)
    return given


def gradients(model: Model) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("texts", PAIRED)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_those_of_transformers_own_labels(
    family: str, name: str, texts: str
) -> None:
    records = [CASES[name](i, other) for i, other in enumerate(PAIRED[texts])]
    outputs = ("score",) if name == "regression" else ("a", "b", "c")
    model = typed(tiny_model(family, TASKS.get(name).head, outputs))
    model.module.config.pad_token_id = model.tokenizer.pad_token_id
    task = bound(name, model, records)
    assert task.outputs == outputs
    names = {n: p.requires_grad_() for n, p in model.module.named_parameters()}
    engine = Engine(model, [ParameterGroup(names)])
    objective = OBJECTIVES.get(task.objective)()
    batch = collate(task.encode_all(records))
    shares, _ = engine.forward_backward(batch, objective, objective.counts(batch))
    ours = {n: g.clone() for n, g in gradients(model).items()}
    model.module.zero_grad()
    given = stock_inputs(model, [r.text for r in records], [r.other for r in records])
    loss = model.module.eval()(**given, labels=batch.labels).loss
    loss.backward()
    assert sum(shares.values()) == pytest.approx(float(loss.detach()), rel=1e-5)
    theirs = gradients(model)
    assert set(ours) == set(theirs)
    for parameter, gradient in ours.items():
        scale = max(1.0, float(theirs[parameter].abs().max()))
        difference = float((gradient - theirs[parameter]).abs().max())
        assert difference <= 1e-5 * scale, f"{parameter}: {difference:.2e}"


def test_a_rerankers_loss_is_that_of_one_class_which_is_there_or_not() -> None:
    record = RankedTexts(text="salt", documents=list(TEXTS), relevance=[0, 2, 1, 0])
    model = typed(tiny_model("bert", "multi_label", ("relevance",)))
    task = bound("reranking", model, [record])
    examples = task.pieces(record)
    assert [e.continues for e in examples] == [False, True, True, True]
    batch = collate(examples)
    assert batch.labels.tolist() == [[0], [1], [0.5], [0]]
    names = {n: p.requires_grad_() for n, p in model.module.named_parameters()}
    objective = OBJECTIVES.get(task.objective)()
    shares, _ = Engine(model, [ParameterGroup(names)]).forward_backward(
        batch, objective, objective.counts(batch)
    )
    given = stock_inputs(model, ["salt"] * 4, list(TEXTS))
    loss = model.module.eval()(**given, labels=batch.labels).loss
    assert sum(shares.values()) == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize("technique", ["full", "lora"])
@pytest.mark.parametrize("family", ["bert", "deberta-v2", "llama", "gpt2"])
@pytest.mark.parametrize(
    ("head", "outputs", "problem"),
    [
        ("multi_label", ("a", "b", "c"), "multi_label_classification"),
        ("multi_label", ("relevance",), "multi_label_classification"),
        ("regression", ("score",), "regression"),
    ],
)
def test_the_saved_model_loads_with_its_own_reader_and_says_the_same(
    tmp_path: Path, head: str, outputs: tuple[str, ...], problem: str, family: str, technique: str
) -> None:
    model = load_model(resolve(str(tiny_model_folder(tmp_path, family))), head=head, labels=outputs)
    assert model.head == head
    method = TECHNIQUES.get(technique)()
    with seeded(1):
        method.prepare(model)
        for parameter in model.module.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    folder = tmp_path / "saved"
    method.save(model, folder)
    assert verify_saved(model, folder, [7, 8, 9, 30]) < 1e-5
    again = load_result(folder)
    assert again.head == head
    ids = torch.tensor([[7, 8, 9, 30]])
    expected = model.module.eval()(input_ids=ids).logits
    torch.testing.assert_close(again.module(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-6)
    if technique == "full":
        stock = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        assert stock.config.problem_type == problem
        assert list(stock.config.id2label.values()) == list(outputs)
        torch.testing.assert_close(stock(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-6)


def test_a_head_of_one_number_is_kept_whatever_it_is_called(tmp_path: Path) -> None:
    source = resolve(str(tiny_model_folder(tmp_path, "bert")))
    scored = load_model(source, head="regression", labels=("score",), seed=3)
    TECHNIQUES.get("full")().save(scored, tmp_path / "scored")
    kept = load_model(
        resolve(str(tmp_path / "scored")), head="multi_label", labels=("relevance",), seed=4
    )
    assert torch.equal(kept.module.classifier.weight, scored.module.classifier.weight)
    assert (scored.new_head, kept.new_head) == (True, False)
    drawn = load_model(source, head="multi_label", labels=("relevance",), seed=4)
    assert not torch.equal(drawn.module.classifier.weight, scored.module.classifier.weight)


def test_sentence_transformers_loads_a_reranker_as_a_cross_encoder(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    source = resolve(str(tiny_model_folder(tmp_path, "bert")))
    model = load_model(source, head="multi_label", labels=("relevance",))
    TECHNIQUES.get("full")().save(model, tmp_path / "saved")
    record = RankedTexts(text="salt", documents=list(TEXTS), relevance=[0, 2, 1, 0])
    task = bound("reranking", model, [record])
    (found,) = task.predict(Engine(model), [{"query": "salt", "documents": list(TEXTS)}])
    theirs = CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(
        [("salt", text) for text in TEXTS]
    )
    for ranked in found.ranking:
        assert ranked.relevance == pytest.approx(float(theirs[ranked.place]), abs=1e-5)
    assert [r.relevance for r in found.ranking] == sorted(theirs, reverse=True) or found.text
    assert found.text == TEXTS[int(theirs.argmax())]
