"""Numbers of texts: figures equal to SciPy's and scikit-learn's, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from tests.tiny import tiny_model

from tunesmith.console import Console
from tunesmith.data.records import ScoredText
from tunesmith.engine.engine import Engine
from tunesmith.errors import DataError
from tunesmith.evaluation.significance import compare, figures
from tunesmith.models.model import Model
from tunesmith.registry import TASKS
from tunesmith.tasks.regression import Regression

QUIET = Console(quiet=True)
TEXTS = ("a painted wall", "the court said", "waves and salt", "fish", "judge of art", "oil", "x")
RECORDS = [ScoredText(text=text, score=(i * 3 % 5) / 2 - 1) for i, text in enumerate(TEXTS)]


def bound(model: Model, records: list[ScoredText] = RECORDS, **options: Any) -> Regression:
    task = Regression(Regression.Options(**options))
    task.study(records)
    task.bind(model)
    return task


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (1e6, 3.0), (0.0, 1e-9)])
def test_figures_equal_those_of_scipy_and_scikit_learn(
    family: str, shift: float, stretch: float
) -> None:
    model = tiny_model(family, "regression", ("score",))
    records = [r.model_copy(update={"score": shift + stretch * r.score}) for r in RECORDS]
    task = bound(model, records)
    scores = task.measure(
        Engine(model), records, task.encode_all(records), generate=0, console=QUIET
    )
    with torch.no_grad():
        said = np.array(
            [float(model.module(**model.tokenizer(t, return_tensors="pt")).logits) for t in TEXTS]
        )
    right = np.array([r.score for r in records])
    found = figures(scores, task.metrics)
    assert found["pearson"] == pytest.approx(pearsonr(said, right).statistic, abs=1e-4)
    assert found["spearman"] == pytest.approx(spearmanr(said, right).statistic)
    assert found["mean_absolute_error"] == pytest.approx(mean_absolute_error(right, said), rel=1e-5)
    squared = mean_squared_error(right, said)
    assert found["root_mean_squared_error"] == pytest.approx(squared**0.5, rel=1e-5)
    assert found["r_squared"] == pytest.approx(r2_score(right, said), rel=1e-4)


def test_without_records_it_says_so():
    for task in (Regression(), TASKS.get("reranking")()):
        with pytest.raises(DataError, match="no training records"):
            task.study([])


def test_a_model_that_learns_only_the_mean_is_closer_but_not_found_better() -> None:
    generator = np.random.default_rng(0)
    records = [ScoredText(text=f"t {i}", score=float(s)) for i, s in
               enumerate(generator.normal(3, 1, 80))]  # fmt: skip
    task = Regression()
    task.study(records)

    def scores(said: np.ndarray) -> Any:
        right = np.array([r.score for r in records])
        engine = type("Said", (), {})()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "tunesmith.engine.outputs.document_outputs", lambda *a, **k: said[:, None]
            )
            examples = [type("E", (), {"label": value})() for value in right]
            return task.measure(engine, records, examples, generate=0, console=QUIET)

    before = scores(generator.normal(0, 0.1, 80))
    after = scores(generator.normal(3, 0.1, 80))
    found = compare(before, after, task.metrics, task.primary, resamples=1000)
    assert found.rows["mean_absolute_error"].better
    assert found.verdict == "no evidence"


def test_predictions_are_numbers_in_the_unit_of_the_scores() -> None:
    model = tiny_model("bert", "regression", ("score",))
    (found,) = bound(model).predict(Engine(model), ["fish"])
    with torch.no_grad():
        expected = float(model.module(**model.tokenizer("fish", return_tensors="pt")).logits)
    assert found.score == pytest.approx(expected, abs=1e-5)
    assert float(found.text) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(DataError, match="input 1: It is a list"):
        bound(model).predict(Engine(model), [["fish"]])


def test_scores_that_do_not_differ_are_an_error() -> None:
    with pytest.raises(DataError, match="have the score 2: there is nothing to learn"):
        Regression().study([ScoredText(text="a", score=2), ScoredText(text="b", score=2)])


def test_scores_that_lie_far_from_zero_are_remarked_on() -> None:
    task = Regression()
    task.study(RECORDS)
    assert task.remarks() == []
    task.study([ScoredText(text="a", score=1990), ScoredText(text="b", score=2010)])
    assert "lie around 2000 (standard deviation 10)" in task.remarks()[0]
    again = Regression()
    again.load_state(task.state())
    assert again.remarks() == task.remarks()
