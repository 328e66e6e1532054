"""Finds labels that are probably wrong, by confident learning.

    vectors_ND, labels ──folds──> probabilities_NC, each from a map without it ──> WrongLabel

A linear map of frozen vectors is fitted to all records but a fold, and says what each record of
the fold should be. Confident learning (Northcutt, Jiang and Chuang 2021, JAIR 70) then takes from
these probabilities how often each class is mistaken for each other, with a threshold of its own
for every class, and names as many records as that makes wrong; cleanlab computes it. Equal texts
stay in one fold: they would vouch for each other.

It knows vectors and labels, no model and no file. Shapes: N records, D features, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tunesmith.models.logistic import SEEDS, Samples, fit_logistic

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

FOLDS = 5


@dataclass(frozen=True)
class WrongLabel:
    """A label that is probably wrong.

    Attributes:
        place: which record.
        given: its label, and `given_probability` what a map says of it that did not see it.
        better: the label that it gives instead, and `better_probability` how likely that is.
    """

    place: int
    given: str
    given_probability: float
    better: str
    better_probability: float


def find_wrong_labels(
    vectors_ND: Floats, labels: Sequence[str], keys: Sequence[Hashable], *, seed: int = 0
) -> tuple[list[WrongLabel], str]:
    """Return labels that are probably wrong, the surest first, and why some were not looked at.

    Args:
        vectors_ND: one vector of each record.
        keys: what equal records have in common.
        seed: of the folds.
    """
    texts_of = {label: set[Hashable]() for label in labels}
    for label, key in zip(labels, keys, strict=True):
        texts_of[label].add(key)
    names = sorted(label for label, texts in texts_of.items() if len(texts) >= FOLDS)
    if len(names) < 2:
        return [], f"needs two classes of {FOLDS} different texts"
    rare = len(texts_of) - len(names)
    rows = [place for place, label in enumerate(labels) if len(texts_of[label]) >= FOLDS]
    index_of = {name: index for index, name in enumerate(names)}
    labels_N = np.array([index_of[labels[place]] for place in rows], dtype=np.int64)
    samples = Samples(vectors_ND[rows], labels_N)
    groups_N = _numbered([keys[place] for place in rows])
    probabilities_NC = out_of_fold(samples, groups_N, classes=len(names), seed=seed)
    found = [
        WrongLabel(
            rows[row],
            names[labels_N[row]],
            float(probabilities_NC[row, labels_N[row]]),
            names[int(probabilities_NC[row].argmax())],
            float(probabilities_NC[row].max()),
        )
        for row in _issues(labels_N, probabilities_NC)
    ]
    return found, f"{rare} classes of fewer than {FOLDS} texts were passed over" if rare else ""


def out_of_fold(samples: Samples, groups_N: Whole, *, classes: int, seed: int) -> Floats:
    """Return the probability of each class for each record, from a map that did not see it.

    The strength of the penalty is chosen once, on all records.

    Args:
        groups_N: records of one number stay in one fold.
        classes: C; each has at least as many groups as there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    strength = fit_logistic(samples, classes=classes, seed=seed).strength
    probabilities_NC = np.zeros((len(samples.labels_B), classes))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed % SEEDS)
    for kept, out in folds.split(samples.features_BD, samples.labels_B, groups_N):
        present, labels_B = np.unique(samples.labels_B[kept], return_inverse=True)
        learnt = Samples(samples.features_BD[kept], labels_B)
        fitted = fit_logistic(learnt, classes=len(present), strength=strength, seed=seed)
        logits = samples.features_BD[out] @ fitted.weight_CD.T + fitted.bias_C
        probabilities_NC[np.ix_(out, present)] = softmax(logits, axis=1)
    return probabilities_NC


def _issues(labels_N: Whole, probabilities_NC: Floats) -> list[int]:
    """Return the rows that confident learning names, those of the least likely label first."""
    from cleanlab.filter import find_label_issues

    rows = find_label_issues(
        labels_N,
        probabilities_NC,
        filter_by="prune_by_noise_rate",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return [int(row) for row in rows]


def _numbered(keys: Sequence[Hashable]) -> Whole:
    number_of = {key: number for number, key in enumerate(Counter(keys))}
    return np.array([number_of[key] for key in keys], dtype=np.int64)
