"""Hidden words: what is hidden, losses equal to transformers', what is saved, what is measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.tiny import tiny_model, tiny_model_folder

from tunesmith.console import Console
from tunesmith.data.batch import NO_CLASS, collate
from tunesmith.data.masking import Masking, shown
from tunesmith.data.plan import Plan
from tunesmith.data.records import Document
from tunesmith.engine.engine import Engine
from tunesmith.errors import DataError, ModelError, RecipeError
from tunesmith.evaluation.significance import figures
from tunesmith.models.load import load_model, load_result
from tunesmith.models.model import Model
from tunesmith.models.resolve import resolve
from tunesmith.models.saving import verify_saved
from tunesmith.models.seeded import seeded
from tunesmith.objectives.masked_likelihood import MaskedLikelihood
from tunesmith.registry import TECHNIQUES
from tunesmith.tasks.masked_language_modeling import MaskedLanguageModeling
from tunesmith.techniques.base import ParameterGroup

QUIET = Console(quiet=True)
FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2")
TEXTS = [
    Document(text=text)
    for text in ("a painted wall is dry", "waves and salt, all day long", "x", "the court said so")
]
MASKING = Masking(0.15, 0.8, 0.1, mask_id=1, others=tuple(range(10, 200)), before=1, behind=2)


def bound(model: Model, **options: Any) -> MaskedLanguageModeling:
    task = MaskedLanguageModeling(MaskedLanguageModeling.Options(**options))
    task.bind(model)
    return task


def test_a_share_of_the_tokens_is_hidden_most_of_it_behind_the_mask() -> None:
    rng = np.random.default_rng(0)
    hidden = masked = stayed = 0
    for length in (40, 100, 200):
        for key in range(60):
            ids = rng.integers(200, 300, length).tolist()
            stream = MASKING.hide(ids, (0, key))
            gaps = [i for i, stood in enumerate(stream.classes) if stood != NO_CLASS]
            assert len(gaps) == round(0.15 * (length - 3))
            assert all(stream.classes[i] == ids[i] for i in gaps)
            assert all(stream.ids[i] == ids[i] for i in range(length) if i not in gaps)
            assert min(gaps) >= 1
            assert max(gaps) < length - 2
            hidden += len(gaps)
            masked += sum(stream.ids[i] == 1 for i in gaps)
            stayed += sum(stream.ids[i] == ids[i] for i in gaps)
            assert all(stream.ids[i] in (1, ids[i]) or 10 <= stream.ids[i] < 200 for i in gaps)
    assert masked / hidden == pytest.approx(0.8, abs=0.02)
    assert stayed / hidden == pytest.approx(0.1, abs=0.02)


def test_every_token_is_hidden_equally_often() -> None:
    counts = np.zeros(20)
    for key in range(2000):
        stream = MASKING.hide(range(50, 73), (key,))
        counts += np.array(stream.classes[1:-2]) != NO_CLASS
    assert counts.min() > 0.8 * counts.mean()
    assert counts.max() < 1.2 * counts.mean()


def test_gaps_follow_from_text_and_key_alone() -> None:
    first = MASKING.hide([4, *range(30, 60), 5, 5], (3, 1))
    assert MASKING.hide([4, *range(30, 60), 5, 5], (3, 1)) == first
    others = [
        MASKING.hide([4, *range(30, 60), 5, 5], (3, 2)),
        MASKING.hide([4, *range(30, 60), 5, 5], (4, 1)),
        MASKING.hide([4, *range(31, 61), 5, 5], (3, 1)),
    ]
    assert all(np.not_equal(other.classes, NO_CLASS).tolist()
               != np.not_equal(first.classes, NO_CLASS).tolist() for other in others)  # fmt: skip


def test_a_plan_hides_other_tokens_in_every_epoch_and_the_same_when_asked_again() -> None:
    task = bound(tiny_model("bert", "masked_lm"), share=0.3)
    examples = task.encode_all(TEXTS)

    def plan() -> Plan:
        return Plan(examples, MaskedLikelihood().counts, batch_size=4, tokens_per_batch=999,
                    epochs=3, seed=5, seen=task.seen)  # fmt: skip

    epochs = [step.batches[0] for step in plan()]
    for one, other in zip(epochs, plan(), strict=True):
        again = other.batches[0].text
        assert torch.equal(one.text.ids_T, again.ids_T)
        assert torch.equal(one.text.classes_T, again.classes_T)
    gaps = {
        tuple(
            tuple((classes_L != NO_CLASS).tolist())
            for _, classes_L in sorted(
                zip(batch.indices, batch.text.classes_T.split(batch.text.lengths), strict=True)
            )
        )
        for batch in epochs
    }
    assert len(gaps) == 3
    for example in examples:
        assert shown(task.seen(example, 5, 1)) == shown(example)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_those_of_transformers_own_labels(family: str) -> None:
    model = tiny_model(family, "masked_lm")
    task = bound(model, share=0.4)
    examples = [task.seen(example, 0, 0) for example in task.encode_all(TEXTS)]
    names = {n: p.requires_grad_() for n, p in model.module.named_parameters()}
    engine = Engine(model, [ParameterGroup(names)])
    batch = collate(examples)
    objective = MaskedLikelihood()
    counts = objective.counts(batch)
    assert counts == {"nll": sum(s.trained() for e in examples for s in e.streams.values())}
    shares, _ = engine.forward_backward(batch, objective, counts)
    ours = {n: p.grad.clone() for n, p in names.items() if p.grad is not None}
    model.module.zero_grad()
    longest = max(example.length for example in examples)
    rows = [example.streams["text"] for example in examples]
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows])
    labels = torch.tensor([[*row.classes, *[-100] * (longest - len(row.ids))] for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows])
    loss = model.module.eval()(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    assert sum(shares.values()) == pytest.approx(float(loss.detach()), rel=1e-5)
    theirs = {n: p.grad for n, p in names.items() if p.grad is not None}
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        scale = max(1.0, float(theirs[name].abs().max()))
        assert float((gradient - theirs[name]).abs().max()) <= 1e-5 * scale, name


@pytest.mark.parametrize("family", FAMILIES)
def test_figures_are_those_of_the_stock_model_at_the_hidden_places(family: str) -> None:
    model = tiny_model(family, "masked_lm")
    task = bound(model, share=0.3, max_length=16)
    examples = task.encode_all(TEXTS)
    assert [example.continues for example in examples].count(True) == 3
    scores = task.measure(Engine(model), TEXTS, examples, generate=0, console=QUIET)
    expected = []
    for example in examples:
        stream = example.streams["text"]
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([stream.ids])).logits[0].log_softmax(-1)
        gaps = [i for i, stood in enumerate(stream.classes) if stood != NO_CLASS]
        assert all(stream.ids[i] == model.tokenizer.mask_token_id for i in gaps)
        expected += [
            (float(logits[i, stream.classes[i]]), int(logits[i].argmax()) == stream.classes[i])
            for i in gaps
        ]
    found = figures(scores, task.metrics)
    assert found["log_likelihood"] == pytest.approx(np.mean([e[0] for e in expected]), abs=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(-found["log_likelihood"]))
    assert found["accuracy"] == pytest.approx(np.mean([e[1] for e in expected]))


@pytest.mark.parametrize("technique", ["full", "layers", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_model_loads_with_its_own_reader_and_says_the_same(
    tmp_path: Path, family: str, technique: str
) -> None:
    source = resolve(str(tiny_model_folder(tmp_path, f"masked-{family}")))
    model = load_model(source, head="masked_lm")
    stock = transformers.AutoModelForMaskedLM.from_pretrained(source.path)
    ids = torch.tensor([[7, 8, 1, 30]])
    assert torch.equal(model.module(input_ids=ids).logits, stock(input_ids=ids).logits)
    method = TECHNIQUES.get(technique)()
    with seeded(1):
        method.prepare(model)
        for parameter in model.module.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    folder = tmp_path / "saved"
    method.save(model, folder)
    assert verify_saved(model, folder, ids[0].tolist()) < 1e-5
    expected = model.module.eval()(input_ids=ids).logits
    again = load_result(folder)
    assert (again.head, again.anatomy.head) == ("masked_lm", ())
    torch.testing.assert_close(again.module(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-6)
    if technique != "lora":
        theirs = transformers.AutoModelForMaskedLM.from_pretrained(folder)
        torch.testing.assert_close(theirs(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-6)
    else:
        import peft

        theirs = peft.AutoPeftModel.from_pretrained(folder)
        torch.testing.assert_close(theirs(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-6)


def test_a_body_without_the_layer_that_fills_in_words_is_refused(tmp_path: Path) -> None:
    source = resolve(str(tiny_model_folder(tmp_path, "bert")))
    with pytest.raises(ModelError, match="without the layer that fills in words"):
        load_model(source, head="masked_lm")


def test_predictions_fill_the_gaps_as_the_stock_model_does() -> None:
    model = tiny_model("bert", "masked_lm")
    task, mask = bound(model), model.tokenizer.mask_token
    one, two = task.predict(Engine(model), [f"a {mask} wall", f"{mask} and {mask}"])
    given = model.tokenizer(f"a {mask} wall", return_tensors="pt")
    with torch.no_grad():
        logits = model.module(**given).logits[0]
    place = given["input_ids"][0].tolist().index(model.tokenizer.mask_token_id)
    best = int(logits[place].argmax())
    filled = [best if i == place else token for i, token in enumerate(given["input_ids"][0])]
    assert one.text == model.tokenizer.decode(filled, skip_special_tokens=True)
    share = float(logits[place].softmax(-1)[best])
    assert max(one.probabilities.values()) == pytest.approx(share, abs=1e-5)
    assert two.probabilities == {}
    for text, what in (
        (3, "It is a int"),
        ("a wall", "nothing to fill in"),
        (mask * 999, "999 tok"),
    ):
        with pytest.raises(DataError, match=f"input 1: .*{what}"):
            task.predict(Engine(model), [text])


def test_options_that_make_no_sense_are_errors() -> None:
    with pytest.raises(RecipeError, match=r"0\.8 of the hidden tokens masked and 0\.3 random"):
        MaskedLanguageModeling(MaskedLanguageModeling.Options(random=0.3))
    model = tiny_model("bert", "masked_lm")
    short = replace(model, anatomy=replace(model.anatomy, context_length=2))
    with pytest.raises(RecipeError, match="2 tokens leave no room for text"):
        bound(short)
    with pytest.raises(ModelError, match="no mask token"):
        bound(tiny_model("llama"))
    task = bound(model)
    task._tokenizer = lambda text, **_: {"input_ids": []}
    with pytest.raises(DataError, match="The text has no tokens"):
        task.encode(Document(text=" "))
