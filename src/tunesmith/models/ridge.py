"""Fits the linear map of a `FeatureHead` by ridge regression, which has a closed form.

    features_BD, ±1 for each class ──standardise──> weights, bias ──one scale──> logits

As in scikit-learn's `RidgeClassifier`, each class has +1 for its own records and -1 for all others,
and the class with the largest output is chosen. The outputs are then multiplied by one number, the
one under which held-out records are likeliest, so that their softmax is a probability. One
decomposition of the features serves all strengths (Hoerl and Kennard, 1970). Numbers are fitted as
they are, as by `Ridge`.

Shapes: B records, D features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from tunesmith.models.logistic import (
    SEEDS,
    STRENGTHS,
    Fitted,
    Floats,
    Samples,
    Standard,
    check_classes,
    pairs_to_choose_by,
)

_FOLDS = 5
_SCALES = (-3.0, 6.0)
"""Natural logarithms of the least and the largest scale of the outputs."""


def fit_ridge(
    train: Samples,
    *,
    classes: int,
    held_out: Samples | None = None,
    strength: float | None = None,
    seed: int = 0,
) -> Fitted:
    """Fit logits = weight_CD · features + bias_C.

    Args:
        classes: C; every class needs a training record.
        held_out: records by which strength and scale are chosen; folds of `train` where None.
        strength: 1 / alpha of scikit-learn, on standardised features; chosen where None.
        seed: from which the folds are drawn.

    Raises:
        DataError: a class has no training record.
    """
    check_classes(train, classes)
    standard = Standard.of(train)
    train = standard.apply(train)
    apart = None if held_out is None else standard.apply(held_out)
    pairs = pairs_to_choose_by(train, apart, classes, seed)
    solved = [(_Solved(kept, _signs(kept, classes)), out) for kept, out in pairs]
    if strength is None:
        strength = _choose([(part, out, _signs(out, classes)) for part, out in solved])
    whole = _Solved(train, _signs(train, classes))
    judged = solved or [(whole, train)]
    scale = _scale(
        np.concatenate([part.outputs(out, strength) for part, out in judged]),
        np.concatenate([out.labels_B for _, out in judged]),
    )
    weight_CD, bias_C = whole.weights(strength)
    loss = _loss(scale * whole.outputs(train, strength), train.labels_B)
    return standard.folded(scale * weight_CD, scale * bias_C, strength, loss)


def fit_ridge_numbers(
    train: Samples,
    *,
    held_out: Samples | None = None,
    strength: float | None = None,
    seed: int = 0,
) -> Fitted:
    """Fit number = weight_1D · features + bias_1, by records whose labels are numbers.

    The arguments are those of `fit_ridge`; `loss` is the mean squared error.
    """
    standard = Standard.of(train)
    train = standard.apply(train)
    if held_out is not None:
        pairs = [(train, standard.apply(held_out))]
    elif len(train.labels_B) < _FOLDS:
        pairs = []
    else:
        from sklearn.model_selection import KFold

        folds = KFold(_FOLDS, shuffle=True, random_state=seed % SEEDS).split(train.features_BD)
        pairs = [(train.take(kept), train.take(out)) for kept, out in folds]
    if strength is None:
        strength = _choose([(_Solved(a, _column(a)), b, _column(b)) for a, b in pairs])
    whole = _Solved(train, _column(train))
    weight_1D, bias_1 = whole.weights(strength)
    loss = float(((whole.outputs(train, strength) - _column(train)) ** 2).mean())
    return standard.folded(weight_1D, bias_1, strength, loss)


@dataclass(frozen=True)
class _Solved:
    """The closed form of some records for every strength.

    With centred features X = U S V and centred targets Y, the weights are
    V diag(s / (s² + alpha)) Uᵀ Y.
    """

    samples: Samples
    targets_BC: Floats

    @cached_property
    def _parts(self) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        features_BD = self.samples.features_BD
        mean_D, mean_C = features_BD.mean(0), self.targets_BC.mean(0)
        left_BK, values_K, right_KD = np.linalg.svd(features_BD - mean_D, full_matrices=False)
        return mean_D, mean_C, values_K, right_KD, left_BK.T @ (self.targets_BC - mean_C)

    def weights(self, strength: float) -> tuple[Floats, Floats]:
        """Return weight_CD and bias_C."""
        mean_D, mean_C, values_K, right_KD, projected_KC = self._parts
        shrunk_K = values_K / (values_K**2 + 1 / strength)
        weight_CD = (right_KD.T @ (shrunk_K[:, None] * projected_KC)).T
        return weight_CD, mean_C - weight_CD @ mean_D

    def outputs(self, samples: Samples, strength: float) -> Floats:
        """Return what these weights give for records, `[B, C]`."""
        weight_CD, bias_C = self.weights(strength)
        found: Floats = samples.features_BD @ weight_CD.T + bias_C
        return found


def _signs(samples: Samples, classes: int) -> Floats:
    """+1 for a record's own class, -1 for all others."""
    targets_BC: Floats = 2.0 * np.eye(classes)[samples.labels_B] - 1.0
    return targets_BC


def _column(samples: Samples) -> Floats:
    """The numbers of records as a column."""
    targets_B1: Floats = samples.labels_B[:, None]
    return targets_B1


def _choose(judged: list[tuple[_Solved, Samples, Floats]]) -> float:
    """Return the strength with the least squared error on held-out records and their targets."""
    if not judged:
        return 1.0
    errors = [
        sum(
            float(((part.outputs(out, strength) - targets_BC) ** 2).sum())
            for part, out, targets_BC in judged
        )
        for strength in STRENGTHS
    ]
    return STRENGTHS[int(np.argmin(errors))]


def _scale(outputs_BC: Floats, labels_B: NDArray[np.int64]) -> float:
    """Return the scale under which these records are likeliest."""
    found = minimize_scalar(
        lambda log: _loss(np.exp(log) * outputs_BC, labels_B), bounds=_SCALES, method="bounded"
    )
    return float(np.exp(found.x))


def _loss(logits_BC: Floats, labels_B: NDArray[np.int64]) -> float:
    """The mean negative log-likelihood, in nats."""
    rows = np.arange(len(labels_B))
    return float(-log_softmax(logits_BC, axis=-1)[rows, labels_B].mean())
