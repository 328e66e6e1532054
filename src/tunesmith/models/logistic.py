"""Fits the linear map of a `FeatureHead`: multinomial logistic regression, a convex problem.

    features_BD, labels_B ──standardise──> scikit-learn ──fold the scales in──> weight_CD, bias_C

The strength of the L2 penalty is chosen by the mean log-likelihood of held-out records: those that
are given, or folds of the training records. Each fit takes one thread, the folds are fitted beside
one another: products of this size lose more by waiting for a second thread than they gain. It knows
features and labels, no model.

Shapes: B records, D features, C classes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits
from torch import Tensor, get_num_threads

from tunesmith.errors import DataError

Floats = NDArray[np.float64]

STRENGTHS = tuple(float(10.0**power) for power in np.arange(-4.0, 1.1, 0.5))
"""The inverse penalties that are tried, on standardised features."""

_FOLDS = 5

_WORSE = 2
"""So many strengths in a row that are worse than the best one end the search for it."""


@dataclass(frozen=True)
class Samples:
    """Features of records and the index of each one's class, or its number."""

    features_BD: Floats
    labels_B: NDArray[Any]

    @classmethod
    def of(cls, features_BD: Tensor, labels_B: Tensor) -> Samples:
        """Take them from tensors."""
        labels_B = labels_B.double() if labels_B.is_floating_point() else labels_B.long()
        return cls(features_BD.double().cpu().numpy(), labels_B.cpu().numpy())

    def take(self, rows: Any) -> Samples:
        """Return the records at `rows`."""
        return Samples(self.features_BD[rows], self.labels_B[rows])


@dataclass(frozen=True)
class Fitted:
    """A linear map onto logits, the strength that was used, and its loss on the training records.

    `loss` is the mean negative log-likelihood, in nats.
    """

    weight_CD: Floats
    bias_C: Floats
    strength: float
    loss: float


def fit_logistic(
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
        held_out: records on which the strength is chosen; folds of `train` where None.
        strength: scikit-learn's C, on standardised features; chosen where None.
        seed: from which the folds are drawn.

    Raises:
        DataError: a class has no training record.
    """
    check_classes(train, classes)
    standard = Standard.of(train)
    train = standard.apply(train)
    with threadpool_limits(1, user_api="blas"):
        if strength is None:
            apart = None if held_out is None else standard.apply(held_out)
            strength = _choose(pairs_to_choose_by(train, apart, classes, seed))
        fitted = _regression(strength).fit(train.features_BD, train.labels_B)
    loss = float(log_loss(train.labels_B, fitted.predict_proba(train.features_BD)))
    weight_CD, bias_C = fitted.coef_, fitted.intercept_
    if classes == 2:  # scikit-learn gives one row, the log-odds: halves give the same softmax
        weight_CD = np.concatenate([-weight_CD, weight_CD]) / 2
        bias_C = np.concatenate([-bias_C, bias_C]) / 2
    return standard.folded(weight_CD, bias_C, strength, loss)


@dataclass(frozen=True)
class Standard:
    """The mean and the deviation of each feature, so that one penalty suits all models."""

    mean_D: Floats
    scale_D: Floats

    @classmethod
    def of(cls, samples: Samples) -> Standard:
        """Take them from training records; a feature that is always the same keeps its size."""
        scale_D = samples.features_BD.std(0)
        scale_D[scale_D == 0] = 1.0
        return cls(samples.features_BD.mean(0), scale_D)

    def apply(self, samples: Samples) -> Samples:
        """Return the records with standardised features."""
        return Samples((samples.features_BD - self.mean_D) / self.scale_D, samples.labels_B)

    def folded(self, weight_CD: Floats, bias_C: Floats, strength: float, loss: float) -> Fitted:
        """Return a map of standardised features as one of the features as they are."""
        weight_CD = weight_CD / self.scale_D
        return Fitted(weight_CD, bias_C - weight_CD @ self.mean_D, strength, loss)


def check_classes(train: Samples, classes: int) -> None:
    """Raise DataError where a class has no training record."""
    absent = sorted(set(range(classes)) - set(train.labels_B.tolist()))
    if absent:
        raise DataError(
            f"{len(absent)} of {classes} classes have no training record.",
            fix="Add records of every class, or split with `data.stratify: true`.",
        )


def pairs_to_choose_by(
    train: Samples, held_out: Samples | None, classes: int, seed: int
) -> list[tuple[Samples, Samples]]:
    """Return records to fit on and to judge by; none where nothing can be held out."""
    if held_out is not None:
        return [(train, held_out)]
    rarest = int(np.bincount(train.labels_B, minlength=classes).min())
    if rarest < 2:
        return []  # a class would be lost
    folds = StratifiedKFold(min(_FOLDS, rarest), shuffle=True, random_state=seed)
    splits = folds.split(train.features_BD, train.labels_B)
    return [(train.take(kept), train.take(out)) for kept, out in splits]


def _choose(pairs: list[tuple[Samples, Samples]]) -> float:
    """Return the strength with the least loss on held-out records; the smaller one on a tie.

    The loss falls with weaker penalties until the map learns what is true of its own records only,
    and rises from there on, where a fit takes longest: what is left then is not tried.
    """
    if not pairs:
        return 1.0
    paths = [_Path(kept, out) for kept, out in pairs]
    losses: list[float] = []
    best = 0
    with ThreadPoolExecutor(min(len(paths), get_num_threads())) as threads:
        for strength in STRENGTHS:
            losses.append(sum(threads.map(_Path.loss, paths, repeat(strength))))
            best = int(np.argmin(losses))
            if len(losses) > best + _WORSE:
                break
    return STRENGTHS[best]


class _Path:
    """Fits on some records at rising strengths; each begins where the one before it ended."""

    def __init__(self, kept: Samples, out: Samples) -> None:
        self._kept, self._out = kept, out
        self._fit = _regression(STRENGTHS[0], warm_start=True)

    def loss(self, strength: float) -> float:
        """Return the loss of the other records at the next strength."""
        fit = self._fit.set_params(C=strength).fit(self._kept.features_BD, self._kept.labels_B)
        probabilities = fit.predict_proba(self._out.features_BD)
        return float(log_loss(self._out.labels_B, probabilities, labels=fit.classes_))


def _regression(strength: float, *, warm_start: bool = False) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=2000, tol=1e-5, warm_start=warm_start)
