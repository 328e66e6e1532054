"""The strength of a head's penalty: found without trying them all, on one thread each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from tunesmith.errors import ModelError
from tunesmith.models import logistic
from tunesmith.models.logistic import STRENGTHS, Samples, Standard, fit_logistic
from tunesmith.models.ridge import fit_ridge, fit_ridge_numbers


def samples(records: int, size: int, signal: float, classes: int = 2, seed: int = 0) -> Samples:
    """Normal features, of which the first few say something of the class."""
    generator = torch.Generator().manual_seed(seed)
    labels_B = torch.randint(classes, (records,), generator=generator)
    features_BD = torch.randn(records, size, generator=generator)
    features_BD[:, :classes] += signal * torch.nn.functional.one_hot(labels_B, classes)
    return Samples.of(features_BD, labels_B)


def losses(found: Samples, classes: int) -> list[float]:
    """The loss of the held-out folds for every strength."""
    standard = Standard.of(found).apply(found)
    pairs = logistic.pairs_to_choose_by(standard, None, classes, 0)
    paths = [logistic._Path(kept, out, classes) for kept, out in pairs]
    return [sum(path.loss(strength) for path in paths) for strength in STRENGTHS]


@pytest.mark.parametrize(
    ("signal", "classes", "size"),
    [(0.0, 2, 24), (0.5, 2, 24), (1.0, 3, 24), (2.0, 2, 60), (4.0, 2, 8), (9.0, 3, 8)],
)
def test_the_strength_is_the_best_of_all(signal: float, classes: int, size: int) -> None:
    given = samples(150, size, signal, classes)
    best = STRENGTHS[int(np.argmin(losses(given, classes)))]
    assert fit_logistic(given, classes=classes).strength == best


@pytest.mark.parametrize(("classes", "count"), [(2, 5), (3, 5), (4, 3)])
def test_folds_are_those_of_scikit_learn(classes: int, count: int) -> None:
    from sklearn.model_selection import StratifiedKFold

    given = samples(97, 8, 0.0, classes)
    folds = StratifiedKFold(count, shuffle=True, random_state=3)
    expected = [out.tolist() for _, out in folds.split(given.features_BD, given.labels_B)]
    fold_B = logistic._folds(given.labels_B, count, 3)
    assert [np.flatnonzero(fold_B == fold).tolist() for fold in range(count)] == expected


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_a_fit_is_that_of_scikit_learn(classes: int, strength: float) -> None:
    from sklearn.linear_model import LogisticRegression

    given = samples(120, 16, 0.5, classes)
    given = Standard.of(given).apply(given)
    theirs = LogisticRegression(C=strength, max_iter=5000, tol=1e-9)
    theirs.fit(given.features_BD, given.labels_B)
    ours = logistic._fit(given, classes, strength)
    found = logistic._log_probabilities(given.features_BD, ours[:, :-1], ours[:, -1])
    expected = theirs.predict_log_proba(given.features_BD)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_what_comes_after_the_best_strength_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []
    real = logistic._Path.loss

    def loss(path: logistic._Path, strength: float) -> float:
        tried.append(strength)
        return real(path, strength)

    monkeypatch.setattr(logistic._Path, "loss", loss)
    found = fit_logistic(samples(150, 24, 0.5), classes=2).strength
    assert max(tried) == STRENGTHS[STRENGTHS.index(found) + logistic._WORSE]


def test_the_result_does_not_depend_on_how_many_folds_are_fitted_at_a_time() -> None:
    given, before = samples(150, 24, 0.5), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.append(fit_logistic(given, classes=2))
    finally:
        torch.set_num_threads(before)
    assert (found[0].weight_CD == found[1].weight_CD).all()
    assert found[0].strength == found[1].strength


def test_a_fit_takes_one_thread_and_leaves_their_number_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def threads() -> list[int]:
        return [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]

    seen: list[list[int]] = []
    monkeypatch.setattr(logistic, "_choose", lambda *given: seen.append(threads()) or 1.0)
    before = threads()
    fit_logistic(samples(60, 4, 1.0), classes=2)
    assert seen == [[1] * len(before)]
    assert threads() == before


def test_every_seed_that_a_recipe_may_name_draws_folds() -> None:
    found = samples(40, 6, 1.0)
    for fit in (
        lambda seed: fit_logistic(found, classes=2, seed=seed),
        lambda seed: fit_ridge(found, classes=2, seed=seed),
        lambda seed: fit_ridge_numbers(
            Samples(found.features_BD, found.labels_B.astype(np.float64)), seed=seed
        ),
    ):
        assert (fit(2**63 - 1).weight_CD == fit(2**32 - 1).weight_CD).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(value: float) -> None:
    features_BD = torch.ones(4, 3)
    features_BD[2, 1] = value
    with pytest.raises(ModelError, match="1 of 4 records"):
        Samples.of(features_BD, torch.tensor([0, 1, 0, 1]))
