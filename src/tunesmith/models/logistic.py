"""Fits the linear map of a `FeatureHead`: multinomial logistic regression, a convex problem.

    features_BD, labels_B ──standardise──> L-BFGS ──fold the scales in──> weight_CD, bias_C

What is minimised is what scikit-learn's LogisticRegression minimises (for two classes one row of
log-odds), and in the same way; it is written out here because to import that takes longer than to
fit. The strength of the L2 penalty is chosen by the mean log-likelihood of held-out records: those
that are given, or folds of the training records. Each fit takes one thread, the folds are fitted
beside one another: products of this size lose more by waiting for a second thread than they gain.
It knows features and labels, no model.

Source: Liu and Nocedal, 1989, Mathematical Programming 45 (L-BFGS).
Shapes: B records, D features, C classes, R rows that are fitted, E = D + 1 (the bias is the last).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits
from torch import Tensor, get_num_threads

from tunesmith.errors import DataError, ModelError

Floats = NDArray[np.float64]

STRENGTHS = tuple(float(10.0**power) for power in np.arange(-4.0, 1.1, 0.5))
"""The inverse penalties that are tried, on standardised features."""

SEEDS = 2**32
"""So many seeds NumPy's older generators know, which draw the folds."""

_FOLDS = 5
_STEPS, _GRADIENT = 2000, 1e-5
"""A fit ends after so many steps, or where no element of the gradient is larger."""

_WORSE = 2
"""So many strengths in a row that are worse than the best one end the search for it."""


@dataclass(frozen=True)
class Samples:
    """Features of records and the index of each one's class, or its number.

    Raises:
        ModelError: a feature is not finite.
    """

    features_BD: Floats
    labels_B: NDArray[Any]

    def __post_init__(self) -> None:
        wrong = int((~np.isfinite(self.features_BD)).any(axis=1).sum())
        if wrong:
            raise ModelError(
                f"The model gives {wrong} of {len(self.features_BD)} records features that"
                " are infinite or no numbers.",
                fix="Compute in float32 (training.precision), or choose another layer or model.",
            )

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
            strength = _choose(pairs_to_choose_by(train, apart, classes, seed), classes)
        fitted_RE = _fit(train, classes, strength)
    weight_CD, bias_C = fitted_RE[:, :-1], fitted_RE[:, -1]
    if classes == 2:  # of the log-odds: halves give the same softmax
        weight_CD = np.concatenate([-weight_CD, weight_CD]) / 2
        bias_C = np.concatenate([-bias_C, bias_C]) / 2
    return standard.folded(weight_CD, bias_C, strength, _loss(train, fitted_RE))


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
    fold_B = _folds(train.labels_B, min(_FOLDS, rarest), seed)
    return [(train.take(fold_B != fold), train.take(fold_B == fold)) for fold in np.unique(fold_B)]


def _folds(labels_B: NDArray[Any], count: int, seed: int) -> NDArray[np.int64]:
    """Return a fold for each record, all classes spread evenly: those of StratifiedKFold."""
    generator = np.random.RandomState(seed % SEEDS)
    labels, firsts = np.unique(labels_B, return_index=True)
    fold_B = np.empty(len(labels_B), dtype=np.int64)
    dealt = 0
    for label in labels[np.argsort(firsts)]:
        own_B = labels_B == label
        folds = np.sort(np.arange(dealt, dealt + own_B.sum()) % count)
        generator.shuffle(folds)
        fold_B[own_B] = folds
        dealt += len(folds)
    return fold_B


def _choose(pairs: list[tuple[Samples, Samples]], classes: int) -> float:
    """Return the strength with the least loss on held-out records; the smaller one on a tie.

    The loss falls with weaker penalties until the map learns what is true of its own records only,
    and rises from there on, where a fit takes longest: what is left then is not tried.
    """
    if not pairs:
        return 1.0
    paths = [_Path(kept, out, classes) for kept, out in pairs]
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

    def __init__(self, kept: Samples, out: Samples, classes: int) -> None:
        self._kept, self._out, self._classes = kept, out, classes
        self._fitted_RE: Floats | None = None

    def loss(self, strength: float) -> float:
        """Return the loss of the other records at the next strength."""
        self._fitted_RE = _fit(self._kept, self._classes, strength, self._fitted_RE)
        return _loss(self._out, self._fitted_RE)


def _fit(samples: Samples, classes: int, strength: float, start_RE: Floats | None = None) -> Floats:
    """Return the weights and biases under which `samples` and the penalty cost least."""
    features_BD, labels_B = samples.features_BD, samples.labels_B
    records, size = features_BD.shape
    shape = (1 if classes == 2 else classes, size + 1)
    penalty = 1.0 / (strength * records)
    own_BR = labels_B[:, None] == np.arange(classes)[-shape[0] :]

    def cost(flat: Floats) -> tuple[float, Floats]:
        weight_RD, bias_R = flat.reshape(shape)[:, :-1], flat.reshape(shape)[:, -1]
        log_BC = _log_probabilities(features_BD, weight_RD, bias_R)
        loss = -log_BC[np.arange(records), labels_B].mean()
        slope_BR = (np.exp(log_BC[:, -shape[0] :]) - own_BR) / records
        slope_RE = np.empty(shape)
        slope_RE[:, :-1] = slope_BR.T @ features_BD + penalty * weight_RD
        slope_RE[:, -1] = slope_BR.sum(0)
        return float(loss + penalty / 2 * (weight_RD**2).sum()), slope_RE.ravel()

    start = np.zeros(shape) if start_RE is None else start_RE
    limits = {"maxiter": _STEPS, "maxls": 50, "gtol": _GRADIENT, "ftol": 64 * np.finfo(float).eps}
    found = minimize(cost, start.ravel(), jac=True, method="L-BFGS-B", options=limits)
    fitted_RE: Floats = found.x.reshape(shape)
    return fitted_RE


def _loss(samples: Samples, fitted_RE: Floats) -> float:
    """The mean negative log-likelihood, in nats."""
    log_BC = _log_probabilities(samples.features_BD, fitted_RE[:, :-1], fitted_RE[:, -1])
    return float(-log_BC[np.arange(len(log_BC)), samples.labels_B].mean())


def _log_probabilities(features_BD: Floats, weight_RD: Floats, bias_R: Floats) -> Floats:
    """The log-probability of each class, `[B, C]`; of one row: the log-odds of the second."""
    scores_BC = features_BD @ weight_RD.T + bias_R
    if scores_BC.shape[1] == 1:
        scores_BC = np.concatenate([-scores_BC, scores_BC], axis=1) / 2
    log_BC: Floats = log_softmax(scores_BC, axis=1)
    return log_BC
