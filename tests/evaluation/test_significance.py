"""The verdict: what a paired bootstrap may and may not call a change."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats

from tunesmith.errors import DataError, RecipeError, RunError
from tunesmith.evaluation.bootstrap import resampling
from tunesmith.evaluation.significance import (
    Comparison,
    compare,
    detectable_before,
    fewest_records,
    figures,
    holm,
)
from tunesmith.tasks.base import ExampleScore, Metric
from tunesmith.tasks.parts.tokens import token_metrics

SHARE = Metric(
    "share",
    ("right", "count"),
    lambda sums: sums["right"] / sums["count"],
    "share of right answers",
    assumed_sd=0.2**0.5,
    assumption="20% change",
)
ERROR = Metric(
    "error", ("wrong", "count"), lambda s: s["wrong"] / s["count"], "error", higher_is_better=False
)
TEXT = {metric.name: metric for metric in token_metrics()}


def rows(**columns: object) -> list[ExampleScore]:
    """Scores from columns of statistics."""
    arrays = {name: np.asarray(values, float) for name, values in columns.items()}
    length = len(next(iter(arrays.values())))
    return [
        ExampleScore(i, {name: float(values[i]) for name, values in arrays.items()})
        for i in range(length)
    ]


def shares(before: object, after: object, **options: object) -> Comparison:
    """Compare two columns of right (1) and wrong (0)."""
    before, after = np.asarray(before, float), np.asarray(after, float)
    ones = np.ones(len(before))
    options = {"resamples": 1000} | options
    return compare(
        rows(right=before, count=ones), rows(right=after, count=ones), {"share": SHARE}, "share",
        **options,
    )  # fmt: skip


def texts(generator: np.random.Generator, n: int, gain: float = 0.0, sd: float = 0.3):
    """Log-likelihoods of texts of long-tailed lengths, before and after."""
    tokens = np.maximum(1, generator.lognormal(3, 1, n)).round()
    before = -(2 + generator.normal(0, 0.5, n)) * tokens
    after = before + (gain + generator.normal(0, sd, n)) * tokens
    return rows(log_likelihood=before, tokens=tokens), rows(log_likelihood=after, tokens=tokens)


def test_figures_are_ratios_of_sums_over_all_records():
    before, after = texts(np.random.default_rng(0), 50)
    row = compare(before, after, TEXT, "log_likelihood", resamples=100).rows["log_likelihood"]
    expected = [
        sum(s.statistics["log_likelihood"] for s in scores)
        / sum(s.statistics["tokens"] for s in scores)
        for scores in (before, after)
    ]
    assert [row.before, row.after] == pytest.approx(expected)
    assert row.difference == pytest.approx(expected[1] - expected[0])
    assert figures(before, TEXT)["log_likelihood"] == pytest.approx(expected[0])
    assert figures(before, TEXT)["perplexity"] == pytest.approx(math.exp(-expected[0]))


def test_interval_equals_scipy_percentile_bootstrap_at_the_widened_level():
    n = 40
    before, after = texts(np.random.default_rng(3), n, gain=0.1)
    ours = compare(before, after, TEXT, "log_likelihood", resamples=20_000).rows["log_likelihood"]
    level = special.ndtr(special.stdtrit(n - 1, 0.025) * math.sqrt(n / (n - 1)))
    a, b, t = (
        np.array([s.statistics[name] for s in scores])
        for scores, name in (
            (before, "log_likelihood"), (after, "log_likelihood"), (after, "tokens"),
        )
    )  # fmt: skip
    theirs = stats.bootstrap(
        (a, b, t),
        lambda a, b, t, axis=-1: (b.sum(axis) - a.sum(axis)) / t.sum(axis),
        paired=True,
        method="percentile",
        confidence_level=1 - 2 * level,
        n_resamples=20_000,
        rng=np.random.default_rng(9),
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.interval == pytest.approx(tuple(theirs.confidence_interval), abs=0.05 * width)


def test_interval_covers_the_truth_about_as_often_as_promised():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        before, after = texts(generator, 30, gain=0.1)
        row = compare(before, after, TEXT, "log_likelihood", resamples=400, seed=trial).rows
        low, high = row["log_likelihood"].interval
        covered += low <= 0.1 <= high
    assert 0.90 <= covered / 300 <= 0.985


@pytest.mark.parametrize(("records", "discordant"), [(20, 0.1), (60, 0.05), (100, 0.3)])
def test_models_that_are_equal_seldom_get_a_verdict(records: int, discordant: float):
    generator = np.random.default_rng(2)
    wrong = 0
    for trial in range(300):
        before = generator.random(records) < 0.5
        after = np.where(generator.random(records) < discordant, ~before, before)
        wrong += shares(before, after, resamples=300, seed=trial).verdict != "no evidence"
    assert wrong / 300 <= 0.08


def test_p_value_is_below_the_level_exactly_where_the_interval_excludes_zero():
    generator = np.random.default_rng(5)
    for trial in range(200):
        before, after = texts(generator, 25, gain=0.12)
        row = compare(before, after, TEXT, "log_likelihood", resamples=500, seed=trial).rows[
            "log_likelihood"
        ]
        if abs(row.p_value - 0.05) > 0.01:
            low, high = row.interval
            assert (row.p_value < 0.05) == (not low <= 0 <= high)


def test_a_clear_gain_is_improved_and_its_mirror_is_worse():
    before, after = texts(np.random.default_rng(0), 60, gain=0.5)
    assert compare(before, after, TEXT, "log_likelihood", resamples=500).verdict == "improved"
    assert compare(after, before, TEXT, "log_likelihood", resamples=500).verdict == "worse"


def test_less_is_better_where_the_metric_says_so():
    before, after = texts(np.random.default_rng(0), 60, gain=0.5)
    comparison = compare(before, after, TEXT, "perplexity", resamples=500)
    assert comparison.rows["perplexity"].difference < 0
    assert comparison.verdict == "improved"
    assert comparison.rows["log_likelihood"].better is True


def test_an_unchanged_model_gives_no_evidence_and_says_what_the_test_could_show():
    row = shares([0, 1] * 20, [0, 1] * 20).rows["share"]
    assert (row.difference, row.interval, row.p_value, row.changed) == (0.0, (0.0, 0.0), 1.0, 0)
    assert row.better is None
    assert row.detectable == detectable_before(40, SHARE).difference


@pytest.mark.parametrize(
    ("records", "verdict"), [(2, "no evidence"), (5, "no evidence"), (6, "improved")]
)
def test_a_handful_of_records_shows_nothing_however_unanimous(records: int, verdict: str):
    comparison = shares([0] * records, [1] * records)
    row = comparison.rows["share"]
    assert comparison.verdict == verdict
    assert row.p_value >= 2.0 ** (1 - records)
    assert (row.interval[0] <= 0) == (verdict == "no evidence")
    assert bool(comparison.cautions) == (verdict == "no evidence")


def test_few_changed_records_among_many_show_nothing():
    comparison = shares([0] * 5 + [1] * 95, [1] * 100)
    assert comparison.verdict == "no evidence"
    assert "5 of 100 records changed" in comparison.cautions[0]


@pytest.mark.parametrize(("confidence", "fewest"), [(0.9, 5), (0.95, 6), (0.99, 8)])
def test_fewest_records_is_where_a_unanimous_sign_test_reaches_the_level(
    confidence: float, fewest: int
):
    assert fewest_records(confidence) == fewest
    enough, too_few = stats.binomtest(fewest, fewest), stats.binomtest(fewest - 1, fewest - 1)
    assert enough.pvalue <= 1 - confidence < too_few.pvalue


def test_holm_equals_the_worked_example_of_four_tests():
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


def test_only_the_metrics_beside_the_primary_one_are_corrected():
    before, after = texts(np.random.default_rng(8), 40, gain=0.08)
    metrics = TEXT | {"again": replace(TEXT["log_likelihood"], name="again")}
    found = compare(before, after, metrics, "log_likelihood", resamples=2000).rows
    assert found["log_likelihood"].p_holm == found["log_likelihood"].p_value
    assert found["perplexity"].p_holm == pytest.approx(2 * found["perplexity"].p_value)


def test_a_true_difference_of_the_detectable_size_is_found_in_about_80_of_100_tests():
    generator, n = np.random.default_rng(4), 60
    found = 0
    gain = detectable_before(n, TEXT["log_likelihood"]).difference  # of equally long texts
    for trial in range(200):
        change = gain + generator.normal(0, 0.3, n)
        before = rows(log_likelihood=np.zeros(n), tokens=np.ones(n))
        after = rows(log_likelihood=change, tokens=np.ones(n))
        verdict = compare(before, after, TEXT, "log_likelihood", resamples=300, seed=trial).verdict
        found += verdict == "improved"
    assert 0.72 <= found / 200 <= 0.90


def test_detectable_of_a_measured_test_is_2_8_standard_errors():
    n = 2000
    change = np.random.default_rng(6).normal(0, 1, n)
    before = rows(log_likelihood=np.zeros(n), tokens=np.ones(n))
    after = rows(log_likelihood=change, tokens=np.ones(n))
    row = compare(before, after, TEXT, "log_likelihood", resamples=4000).rows["log_likelihood"]
    quantiles = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert row.detectable == pytest.approx(quantiles * change.std() / math.sqrt(n), rel=0.04)


def test_detectable_before_states_its_assumption_and_is_silent_without_one():
    before = detectable_before(1000, SHARE)
    assert before.assumption == "20% change"
    assert before.difference == pytest.approx(2.8016 * math.sqrt(0.2 / 1000), rel=0.01)
    assert detectable_before(1000, ERROR) is None
    assert detectable_before(5, SHARE) is None


def test_a_metric_uses_only_the_records_that_it_was_measured_on():
    before, after = texts(np.random.default_rng(0), 30)
    for place in range(10):
        before[place].statistics.update(right=0.0, count=1.0)
        after[place].statistics.update(right=1.0, count=1.0)
    found = compare(before, after, TEXT | {"share": SHARE}, "log_likelihood", resamples=300).rows
    assert (found["share"].n, found["log_likelihood"].n) == (10, 30)
    assert (found["share"].before, found["share"].after) == (0.0, 1.0)


def test_a_metric_that_was_not_measured_is_left_out_but_not_where_it_decides():
    before, after = texts(np.random.default_rng(0), 30)
    metrics = TEXT | {"share": SHARE}
    assert "share" not in compare(before, after, metrics, "log_likelihood", resamples=100).rows
    assert "share" not in figures(before, metrics)
    with pytest.raises(DataError, match=r"'share'.*fewer than two"):
        compare(before, after, metrics, "share")


@pytest.mark.parametrize("records", [0, 1])
def test_a_test_of_fewer_than_two_records_is_an_error(records: int):
    with pytest.raises(DataError, match="fewer than two records"):
        shares([0] * records, [1] * records)


def test_an_unknown_primary_metric_gets_the_nearest_name():
    with pytest.raises(RecipeError, match="Did you mean 'log_likelihood'"):
        compare([], [], TEXT, "loglikelihood")


def test_a_figure_that_is_not_finite_is_an_error():
    before, after = texts(np.random.default_rng(0), 10)
    after[3].statistics["log_likelihood"] = float("nan")
    with pytest.raises(RunError, match="log_likelihood"):
        compare(before, after, TEXT, "log_likelihood", resamples=100)


def test_equal_seeds_give_equal_comparisons_and_others_do_not():
    before, after = texts(np.random.default_rng(0), 30, gain=0.1)
    first, again, other = (
        compare(before, after, TEXT, "log_likelihood", resamples=200, seed=seed)
        .rows["log_likelihood"]
        .interval
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_resampling_holds_little_memory_whatever_the_number_of_resamples():
    chunk = next(resampling(5000, 10_000, np.random.default_rng(0)))
    assert chunk.nbytes <= 20e6
    assert (chunk.sum(axis=1) == 5000).all()
    counts = [len(c) for c in resampling(300, 20_000, np.random.default_rng(0))]
    assert sum(counts) == 20_000


def test_of_several_tasks_each_has_a_verdict_and_the_worst_is_the_headline() -> None:
    def row(index: int, task: str, value: float) -> ExampleScore:
        return ExampleScore(index, {f"{task}/correct": value, f"{task}/count": 1.0})

    tasks = {"better": (0.0, 1.0), "same": (1.0, 1.0), "worse": (1.0, 0.0)}
    before, after = [], []
    for place, (task, (old, new)) in enumerate(tasks.items()):
        for number in range(30 * place, 30 * (place + 1)):
            before.append(row(number, task, old if number % 3 else 1.0 - old))
            after.append(row(number, task, new if number % 3 else 1.0 - old))
    metrics = {
        f"{task}/accuracy": Metric(
            f"{task}/accuracy",
            (f"{task}/correct", f"{task}/count"),
            lambda sums, task=task: sums[f"{task}/correct"] / sums[f"{task}/count"],
            "share",
        )
        for task in tasks
    }
    deciding = {task: f"{task}/accuracy" for task in tasks}
    found = compare(before, after, metrics, "better/accuracy", deciding=deciding, resamples=500)
    verdicts = {task: found.rows[name].verdict for task, name in deciding.items()}
    assert verdicts == {"better": "improved", "same": "no evidence", "worse": "worse"}
    assert (found.verdict, found.primary) == ("worse", "worse/accuracy")
    assert [row.n for row in found.rows.values()] == [30, 30, 30]
    corrected = holm({name: found.rows[name].p_value for name in deciding.values()})
    assert {name: found.rows[name].p_holm for name in corrected} == corrected
