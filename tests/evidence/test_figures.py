"""How figures are written."""

from __future__ import annotations

import math

import pytest

from tunesmith.evidence import figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12,346"),
        (18.204, "18.20"),
        (-3.2141, "−3.214"),
        (0.0833, "0.083"),
        (0.00042, "0.00042"),
        (0.0, "0"),
        (3e-9, "3.0e-09"),
    ],
)
def test_a_figure_has_as_many_digits_as_it_carries(value: float, text: str) -> None:
    assert figures.number(value) == text


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_no_figure_becomes_a_dash(value: float | None) -> None:
    assert figures.number(value) == figures.NONE


def test_a_difference_carries_its_sign() -> None:
    assert figures.number(0.5, signed=True) == "+0.500"
    assert figures.number(-0.5, signed=True) == "−0.500"
    assert figures.number(0.0, signed=True) == "0"


def test_an_interval_without_a_bound_is_a_dash() -> None:
    assert figures.interval((None, 1.0)) == figures.NONE
    assert figures.interval((-1.0, 1.0)) == "−1.000 to +1.000"


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.34, "8.3 s"), (125.0, "2 min 5 s"), (11520.0, "3 h 12 min")]
)
def test_a_time_is_written_in_fitting_units(seconds: float, text: str) -> None:
    assert figures.duration(seconds) == text


def test_bytes_and_large_counts_are_written_in_short() -> None:
    assert figures.size(1_520_000_000) == "1.42 GiB"
    assert figures.size(300 * 2**20) == "300 MiB"
    assert figures.many(134_515_008) == "134.5 M"
    assert figures.many(768) == "768"


def test_a_small_p_value_is_a_bound() -> None:
    assert figures.probability(0.0001) == "< 0.001"
    assert figures.probability(0.0123) == "0.012"


@pytest.mark.parametrize(
    ("name", "text"),
    [("rouge_1", "ROUGE-1"), ("chrf", "chrF"), ("log_likelihood", "log likelihood")],
)
def test_a_metric_is_spelt_as_papers_do(name: str, text: str) -> None:
    assert figures.label(name) == text


def test_what_stands_in_backticks_is_set_as_code_and_escaped() -> None:
    assert str(figures.with_code("`a<b` of <i>")) == "<code>a&lt;b</code> of &lt;i&gt;"
    assert str(figures.with_code("one ` alone")) == "one ` alone"


@pytest.mark.parametrize(
    ("text", "begun"),
    [
        ("log likelihood", "Log likelihood"),
        ("nDCG@10", "nDCG@10"),
        ("chrF rose", "chrF rose"),
        ("chat/perplexity fell", "chat/perplexity fell"),
    ],
)
def test_a_sentence_begins_with_a_capital_unless_its_word_is_spelt_otherwise(
    text: str, begun: str
) -> None:
    assert figures.capital(text) == begun
