"""Classification: classes, texts and the figures that are made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss
from tests.tasks.plain_engine import PlainEngine
from tests.tiny import tiny_bert, tiny_llama, tiny_model

from tunesmith.console import Console
from tunesmith.data.records import LabelledText
from tunesmith.errors import DataError, RecipeError
from tunesmith.evaluation.significance import figures
from tunesmith.models.model import Model
from tunesmith.tasks.classification import Classification

LABELS = ("art", "law", "sea")
WORDS = ("a painted wall", "the court said", "waves and salt", "fish", "judge of art", "oil")


def records(n: int = 18, labels: tuple[str, ...] = LABELS) -> list[LabelledText]:
    return [
        LabelledText(text=f"{WORDS[i % len(WORDS)]} {i}", label=labels[i * 7 // 3 % len(labels)])
        for i in range(n)
    ]


def bound(model: Model, labels: tuple[str, ...] = LABELS, **options: object) -> Classification:
    task = Classification(Classification.Options(labels=list(labels), **options))
    task.bind(model)
    return task


def short(model: Model, context: int) -> Model:
    """The same model, with a shorter context."""
    return replace(model, anatomy=replace(model.anatomy, context_length=context))


def test_class_names_are_sorted_and_numbers_by_size():
    task = Classification()
    task.study(records(labels=("b", "a", "10")))
    assert task.labels == ("10", "a", "b")
    task.study(records(labels=("10", "9", "-1")))
    assert task.labels == ("-1", "9", "10")
    task.study(records(labels=("nan", "2", "10")))
    assert task.labels == ("10", "2", "nan")


def test_given_labels_keep_their_order():
    task = Classification(Classification.Options(labels=["sea", "law", "art"]))
    task.study(records())
    assert task.labels == ("sea", "law", "art")


def test_a_training_class_that_is_not_listed_is_an_error():
    task = Classification(Classification.Options(labels=["sea", "law"]))
    with pytest.raises(DataError, match=r"'art', which `task.labels` does not list"):
        task.study(records())


def test_a_class_listed_twice_is_an_error():
    with pytest.raises(RecipeError, match="'sea' is listed twice"):
        Classification(Classification.Options(labels=["sea", "sea"]))


def test_one_class_only_is_an_error_that_names_it():
    with pytest.raises(DataError, match=r"one class only.*'sea'"):
        Classification().study(records(labels=("sea",)))


def test_no_texts_give_no_predictions():
    model = tiny_bert(LABELS)
    assert bound(model).predict(PlainEngine(model), []) == []


def test_classes_that_are_listed_need_no_records():
    task = Classification(Classification.Options(labels=["sea", "art"]))
    task.study([])
    assert task.labels == ("sea", "art")
    with pytest.raises(DataError, match="there are none"):
        Classification().study([])


def test_an_unknown_class_is_an_error_that_names_the_record():
    task = bound(tiny_bert(LABELS))
    test = [*records(3), LabelledText(text="a", label="seas")]
    with pytest.raises(DataError, match=r"test.csv:5: The class 'seas'"):
        task.encode_all(test, [f"test.csv:{i + 2}" for i in range(4)])


@pytest.mark.parametrize("model", [tiny_bert(LABELS), tiny_llama()], ids=["bert", "llama"])
def test_ids_are_those_of_the_tokenizer_called_by_default(model: Model):
    encoded = bound(model).encode(LabelledText(text="the sea", label="sea"))
    assert list(encoded.streams["text"].ids) == model.tokenizer("the sea")["input_ids"]
    assert (encoded.label, encoded.cut) == (2, None)


def test_look_alikes_of_special_tokens_stay_plain_text():
    model = tiny_bert(LABELS)
    ids = bound(model).encode(LabelledText(text="a<sep>b", label="sea")).streams["text"].ids
    assert ids.count(model.tokenizer.sep_token_id) == 1
    assert model.tokenizer.decode(ids[1:-1]) == "a<sep>b"


@pytest.mark.parametrize(("side", "kept"), [("end", "abcd"), ("start", "wxyz")])
def test_a_long_text_is_cut_on_the_chosen_side_and_keeps_its_special_tokens(side: str, kept: str):
    model = tiny_bert(LABELS)
    task = bound(model, max_length=6, truncation=side)
    encoded = task.encode(LabelledText(text="abcdefghijklmnopqrstuvwxyz", label="sea"))
    ids = encoded.streams["text"].ids
    assert ids[0] == model.tokenizer.cls_token_id
    assert ids[-1] == model.tokenizer.sep_token_id
    assert model.tokenizer.decode(ids[1:-1]) == kept
    assert (encoded.cut.side, encoded.cut.tokens, encoded.cut.targets) == (side, 22, 0)


def test_no_text_is_longer_than_the_models_context():
    task = bound(short(tiny_bert(LABELS), 10), max_length=100)
    assert task.encode(LabelledText(text="x" * 50, label="sea")).length == 10


def test_a_length_that_holds_only_special_tokens_is_an_error():
    with pytest.raises(RecipeError, match="no room for text"):
        bound(tiny_bert(LABELS), max_length=2)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_figures_equal_those_of_scikit_learn_on_the_stock_model(family: str):
    model = tiny_model(family, "classification", LABELS)
    task, data = bound(model), records()
    scores = task.measure(
        PlainEngine(model), data, task.encode_all(data), generate=0, console=Console(quiet=True)
    )
    logits = torch.cat(
        [model.module(**model.tokenizer(r.text, return_tensors="pt")).logits.detach() for r in data]
    )
    truth = np.array([LABELS.index(r.label) for r in data])
    guess = logits.argmax(-1).numpy()
    probabilities = logits.double().softmax(-1).numpy()
    found = figures(scores, task.metrics)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found["log_likelihood"] == pytest.approx(-log_loss(truth, probabilities), abs=1e-5)
    onehot = np.eye(3)[truth]
    assert found["brier"] == pytest.approx(((probabilities - onehot) ** 2).sum(1).mean(), abs=1e-5)
    assert [score.output for score in scores] == [LABELS[i] for i in guess]


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_macro_f1_equals_scikit_learn_also_where_classes_do_not_occur(classes: int):
    generator = np.random.default_rng(classes)
    labels = tuple(f"c{i}" for i in range(classes + 1))  # the last one never occurs
    task = Classification(Classification.Options(labels=list(labels)))
    for _ in range(20):
        truth, guess = generator.integers(0, classes, (2, 12))
        scores = [
            task._score(i, int(t), np.log(np.eye(classes + 1)[g] * 0.9 + 0.01))
            for i, (t, g) in enumerate(zip(truth, guess, strict=True))
        ]
        expected = f1_score(truth, guess, average="macro", zero_division=0)
        assert figures(scores, task.metrics)["macro_f1"] == pytest.approx(expected)


def test_scores_come_back_in_the_order_of_the_records_whatever_their_lengths():
    model = tiny_bert(LABELS)
    task = bound(model)
    data = [LabelledText(text="ab" * n, label="sea") for n in (1, 9, 3, 30, 2)]
    engine = PlainEngine(model)
    quiet = Console(quiet=True)
    together = task.measure(engine, data, task.encode_all(data), generate=0, console=quiet)
    for index, record in enumerate(data):
        alone = task.measure(engine, [record], [task.encode(record)], generate=0, console=quiet)
        expected = alone[0].statistics["log_likelihood"]
        assert together[index].index == index
        assert together[index].statistics["log_likelihood"] == pytest.approx(expected, abs=1e-6)


def test_predictions_name_the_likeliest_class_with_probabilities_that_add_up():
    model = tiny_bert(LABELS)
    (one, two) = bound(model).predict(PlainEngine(model), ["waves and salt", "the court said"])
    for prediction in (one, two):
        assert set(prediction.probabilities) == set(LABELS)
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
        best = max(prediction.probabilities, key=prediction.probabilities.get)
        assert prediction.text == best


def test_an_input_that_is_no_text_is_an_error_that_names_it():
    model = tiny_bert(LABELS)
    with pytest.raises(DataError, match="input 2: It is a int"):
        bound(model).predict(PlainEngine(model), ["a", 7])


def test_state_brings_the_classes_back():
    first, second = Classification(), Classification()
    first.study(records())
    second.load_state(first.state())
    assert second.labels == LABELS


def test_a_text_without_tokens_is_an_error():
    task = bound(tiny_llama())
    task._reader._tokenizer = lambda text, **_: {"input_ids": []}
    with pytest.raises(DataError, match="no tokens"):
        task.encode(LabelledText(text=" ", label="sea"))
