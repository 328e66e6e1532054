"""Regression: a text, or two, in, a number out (a rating, how similar two sentences are).

    ScoredText ──encode──> ids + score ──Pooled──> one number ──> Pearson, Spearman, MAE, …

The number is what the head says, in the unit of the scores. Correlation decides, not closeness: a
model that has learnt nothing but the mean of the scores comes near to them and tells nothing apart.
Spearman's correlation is over the ranks within the whole test set, in resamples too. Texts are laid
out as for `classification`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from tunesmith.data.records import ScoredText, text_of
from tunesmith.errors import DataError
from tunesmith.registry import TASKS
from tunesmith.scores.ranking import RANK_SUMS, correlation, paired_sums, ranks, sums_of
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Sums
from tunesmith.tasks.parts.text_heads import TextHead

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine

Floats = NDArray[np.float64]

_FAR = 10.0
"""From this size of a typical score on, a new head, which begins near 0, has far to go."""


@TASKS.register("regression")
class Regression(TextHead):
    """A text in, or two, a number out."""

    Record = ScoredText
    head = "regression"
    objective = "squared_error"
    primary = "pearson"

    def __init__(self, options: BaseModel | None = None) -> None:
        super().__init__(options)
        self._mean, self._spread = 0.0, 1.0  # of the training scores

    def study(self, records: Sequence[ScoredText]) -> None:
        """Find out where the training scores lie.

        Raises:
            DataError: there are none, or they are all the same.
        """
        if not records:
            raise DataError("There are no training records.", where="data.train")
        scores = np.array([record.score for record in records])
        if len(set(scores.tolist())) < 2:
            raise DataError(
                f"All training records have the score {scores[0]:g}: there is nothing to learn.",
                where="data.train",
                fix="Give records of different scores.",
            )
        self._mean, self._spread = float(scores.mean()), float(scores.std())
        self._paired = all(record.other is not None for record in records)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one number."""
        return ("score",)

    def remarks(self) -> list[str]:
        """Say where the scores lie, where that is far from where a new head begins."""
        if max(abs(self._mean), self._spread) < _FAR:
            return []
        return [
            f"The scores lie around {self._mean:.4g} (standard deviation {self._spread:.4g}); a new"
            " head begins near 0 and needs long to get there. Scores of the size of 1 are learnt"
            " sooner: divide them."
        ]

    def encode(self, record: ScoredText) -> Encoded:
        """Encode a text and its score.

        Raises:
            UnlearnableError: the text has no tokens.
        """
        return self._encode(record.text, record.other, record.score)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Pearson's and Spearman's correlation, mean error, share of the variance explained."""
        found = [
            Metric(
                "pearson", sums_of("score"), lambda sums: correlation(sums, "score"),
                "how far what the model says and the scores rise together (-1 to 1)",
            ),
            Metric(
                "spearman", RANK_SUMS, correlation,
                "correlation of the ranks of what the model says with those of the scores (-1 to"
                " 1)",
            ),
            Metric.mean(
                "mean_absolute_error", "how far what the model says is from the score, on average",
                of="absolute_error", over="score", higher_is_better=False, assumed_sd=self._spread,
                assumption="records' changes differ as much as the training scores do",
            ),
            Metric(
                "root_mean_squared_error", ("squared_error", "score"),
                lambda sums: np.sqrt(sums["squared_error"] / sums["score"]),
                "the same, with large errors counting more",
                higher_is_better=False,
            ),
            Metric(
                "r_squared", ("squared_error", *sums_of("score")), self._explained,
                "share of the variance of the scores that the model explains; 0 is what always"
                " saying their mean would reach",
            ),
        ]  # fmt: skip
        return {metric.name: metric for metric in found}

    def measure(
        self,
        engine: Engine,
        records: Sequence[ScoredText],
        examples: Sequence[Encoded],
        *,
        generate: int,
        console: Console,
        tokens_per_batch: int = 4096,
    ) -> list[ExampleScore]:
        """Score every record; `generate` has no meaning here, as nothing is generated."""
        said_N = self._outputs(engine, examples, tokens_per_batch, console)[:, 0]
        right_N = np.array([float(cast(float, example.label)) for example in examples])
        rows = zip(
            paired_sums(ranks(said_N.tolist()), ranks(right_N.tolist())),
            paired_sums(self._scaled(said_N), self._scaled(right_N), "score"),
            (said_N - right_N).tolist(),
            strict=True,
        )
        return [
            ExampleScore(
                index,
                {**of_ranks, **of_scores, "absolute_error": abs(error), "squared_error": error**2},
                f"{said_N[index]:.4g}",
            )
            for index, (of_ranks, of_scores, error) in enumerate(rows)
        ]

    def _scaled(self, values_N: Floats) -> Floats:
        """Return numbers as the training scores' scatter sees them: around 0, of the size of 1."""
        return (values_N - self._mean) / self._spread

    def _explained(self, sums: Sums) -> Floats:
        """Share of the variance that is explained; 0 where there is none."""
        scatter = sums["score_yy"] - sums["score_y"] ** 2 / sums["score"]
        varies = scatter > 1e-12
        error = sums["squared_error"] / self._spread**2
        found: Floats = np.where(varies, 1 - error / np.where(varies, scatter, 1.0), 0.0)
        return found

    def _prediction(self, outputs_C: Floats) -> Prediction:
        """Return the number."""
        value = float(outputs_C[0])
        return Prediction(f"{value:.6g}", score=value)

    def present(self, record: ScoredText) -> tuple[str, str]:
        """Return the text (both, where there are two) and its score."""
        return text_of(record), f"{record.score:g}"

    def state(self) -> dict[str, Any]:
        """Return where the training scores lie, and whether two texts were learnt from."""
        return {"mean": self._mean, "spread": self._spread, **super().state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back where the training scores lie, and whether two texts were learnt from."""
        super().load_state(state)
        self._mean, self._spread = float(state["mean"]), float(state["spread"])
