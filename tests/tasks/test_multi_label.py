"""Several classes a text: figures equal to scikit-learn's, thresholds, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss, precision_score, recall_score
from tests.tiny import tiny_model

from tunesmith.console import Console
from tunesmith.data.records import MultiLabelledText
from tunesmith.engine.engine import Engine
from tunesmith.errors import DataError, RecipeError
from tunesmith.evaluation.significance import figures
from tunesmith.models.model import Model
from tunesmith.tasks.multi_label import MultiLabel

LABELS = ("art", "law", "sea")
QUIET = Console(quiet=True)
TEXTS = ("a painted wall", "the court said", "waves and salt", "fish", "judge of art", "oil", "x")
RECORDS = [
    MultiLabelledText(text=text, labels=[label for j, label in enumerate(LABELS) if i * 5 >> j & 1])
    for i, text in enumerate(TEXTS)
]


def bound(model: Model, **options: Any) -> MultiLabel:
    task = MultiLabel(MultiLabel.Options(labels=list(LABELS), **options))
    task.study(RECORDS)
    task.bind(model)
    return task


def model_() -> Model:
    return tiny_model("bert", "multi_label", LABELS)


@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.7])
def test_figures_equal_those_of_scikit_learn_on_the_stock_model(threshold: float) -> None:
    model = model_()
    task = bound(model, threshold=threshold)
    scores = task.measure(
        Engine(model), RECORDS, task.encode_all(RECORDS), generate=0, console=QUIET
    )
    with torch.no_grad():
        logits = torch.cat(
            [model.module(**model.tokenizer(r.text, return_tensors="pt")).logits for r in RECORDS]
        )
    shares = logits.double().sigmoid().numpy()
    truth = np.array([[label in r.labels for label in LABELS] for r in RECORDS], dtype=int)
    said = (shares >= threshold).astype(int)
    assert 0 < said.sum() < said.size
    found = figures(scores, task.metrics)
    for average in ("micro", "macro"):
        expected = f1_score(truth, said, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    assert found["precision"] == pytest.approx(precision_score(truth, said, average="micro"))
    assert found["recall"] == pytest.approx(recall_score(truth, said, average="micro"))
    assert found["exact_match"] == pytest.approx((truth == said).all(1).mean())
    expected = -log_loss(truth.ravel(), shares.ravel(), labels=[0, 1])
    assert found["log_likelihood"] == pytest.approx(expected, abs=1e-5)


def test_macro_f1_equals_scikit_learn_also_where_classes_do_not_occur() -> None:
    generator = np.random.default_rng(0)
    task = MultiLabel(MultiLabel.Options(labels=["a", "b", "c", "never"]))
    for _ in range(20):
        truth, said = generator.integers(0, 2, (2, 9, 4))
        truth[:, 3] = said[:, 3] = 0
        scores = [
            task._score(i, t.astype(float), np.where(s, 2.0, -2.0))
            for i, (t, s) in enumerate(zip(truth, said, strict=True))
        ]
        expected = f1_score(truth, said, average="macro", zero_division=0)
        assert figures(scores, task.metrics)["macro_f1"] == pytest.approx(expected)


def test_each_class_can_have_a_threshold_of_its_own() -> None:
    task = MultiLabel(MultiLabel.Options(labels=list(LABELS), threshold={"law": 0.9, "sea": 0.1}))
    logits = np.log(np.array([0.6, 0.8, 0.2]) / np.array([0.4, 0.2, 0.8]))
    assert task._said(logits).tolist() == [True, False, True]
    with pytest.raises(RecipeError, match="no class 'see' to have a threshold"):
        bound(model_(), threshold={"see": 0.5})


def test_predictions_name_every_class_that_reaches_its_threshold() -> None:
    model = model_()
    (one,) = bound(model).predict(Engine(model), ["waves and salt"])
    assert set(one.probabilities) == set(LABELS)
    there = [label for label in LABELS if one.probabilities[label] >= 0.5]
    assert one.text == ("; ".join(there) or "none")
    with pytest.raises(DataError, match="input 1: It is a int"):
        bound(model).predict(Engine(model), [3])


def test_labels_that_cannot_be_learnt_are_errors_that_say_so() -> None:
    for records, what in (
        ([MultiLabelledText(text="x", labels=[])], r"fewer than two classes \(none\)"),
        ([MultiLabelledText(text="x", labels=["a"])], r"fewer than two classes \(only 'a'\)"),
    ):
        with pytest.raises(DataError, match=what):
            MultiLabel().study(records)
    with pytest.raises(DataError, match=r"'tax', which `task.labels` does not list"):
        MultiLabel(MultiLabel.Options(labels=list(LABELS))).study(
            [*RECORDS, MultiLabelledText(text="x", labels=["tax"])]
        )
    with pytest.raises(DataError, match="record 1: The class 'tax' is not one of those learnt"):
        bound(model_()).encode_all([MultiLabelledText(text="x", labels=["tax"])])


def test_a_model_that_learnt_pairs_asks_for_pairs_and_its_state_says_so() -> None:
    model = model_()
    pairs = [record.model_copy(update={"other": "beside it"}) for record in RECORDS]
    task = MultiLabel()
    task.study(pairs)
    task.bind(model)
    again = MultiLabel()
    again.load_state(task.state())
    again.bind(model)
    assert again.labels == LABELS
    with pytest.raises(DataError, match="It is one text; the model learnt from pairs"):
        again.predict(Engine(model), ["alone"])
    (found,) = again.predict(Engine(model), [{"text": "a", "text_pair": "b"}])
    assert len(found.probabilities) == 3
    assert task.present(pairs[1]) == (f"{TEXTS[1]}\n\nbeside it", "art; sea")
