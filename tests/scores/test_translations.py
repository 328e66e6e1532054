"""BLEU, chrF and ROUGE, made of counts that add up, equal those of the packages that papers use."""

from __future__ import annotations

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from tunesmith.scores.translations import (
    BLEU_SUMS,
    CHRF_SUMS,
    bleu,
    bleu_counts,
    chrf,
    chrf_counts,
    rouge,
)

WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "table,", "quickly.", "and",
         "then", "it", "slept:", "3.5", "km")  # fmt: skip
ODD = [("", "a right text"), ("cat", "cat"), ("the cat sat", "a dog ran"), ("a b c d e", "")]


def corpus(seed: int, size: int = 12, odd: bool = True) -> list[tuple[str, str]]:
    drawn = random.Random(seed)
    found = list(ODD) if odd else []
    for _ in range(size):
        right = drawn.choices(WORDS, k=drawn.randint(2, 14))
        said = [word if drawn.random() < 0.7 else drawn.choice(WORDS) for word in right]
        found.append((" ".join(said[: drawn.randint(1, 14)]), " ".join(right)))
    return found


def added(counts) -> dict[str, np.ndarray]:
    return {name: np.array(sum(each[name] for each in counts)) for name in counts[0]}


@pytest.mark.parametrize("words", ["13a", "intl", "zh", "char"])
@pytest.mark.parametrize("seed", range(4))
def test_bleu_equals_that_of_sacrebleu(seed, words):
    pairs = corpus(seed)
    expected = BLEU(tokenize=words).corpus_score([s for s, _ in pairs], [[r for _, r in pairs]])
    found = bleu(added([bleu_counts(said, right, words) for said, right in pairs]))
    assert float(found) == pytest.approx(expected.score, abs=1e-9)


@pytest.mark.parametrize("pairs", [ODD[:1], ODD[1:2], ODD[2:3], [("a cat", "a cat sat on it")]])
def test_bleu_of_next_to_nothing_equals_that_of_sacrebleu(pairs):
    expected = BLEU().corpus_score([s for s, _ in pairs], [[r for _, r in pairs]])
    found = bleu(added([bleu_counts(said, right) for said, right in pairs]))
    assert float(found) == pytest.approx(expected.score, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_chrf_equals_that_of_sacrebleu(seed):
    pairs = corpus(seed)
    expected = CHRF().corpus_score([s for s, _ in pairs], [[r for _, r in pairs]])
    found = chrf(added([chrf_counts(said, right) for said, right in pairs]))
    assert float(found) == pytest.approx(expected.score, abs=1e-9)


@pytest.mark.parametrize("pair", ODD)
def test_chrf_of_next_to_nothing_equals_that_of_sacrebleu(pair):
    expected = CHRF().corpus_score([pair[0]], [[pair[1]]])
    assert float(chrf(added([chrf_counts(*pair)]))) == pytest.approx(expected.score, abs=1e-9)


def test_one_call_computes_all_resamples():
    pairs = corpus(5)
    many = [[pairs[i] for i in chosen] for chosen in ([0, 4, 5], [6, 7, 8, 9], [0, 0, 0])]
    for count, names, figure in ((bleu_counts, BLEU_SUMS, bleu), (chrf_counts, CHRF_SUMS, chrf)):
        sums = [added([count(*pair) for pair in sample]) for sample in many]
        assert set(sums[0]) == set(names)
        together = figure({name: np.array([each[name] for each in sums]) for name in names})
        assert together.tolist() == pytest.approx([float(figure(each)) for each in sums])


@pytest.mark.parametrize("seed", range(4))
def test_rouge_of_english_equals_that_of_the_package(seed):
    names = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    scorer = RougeScorer(list(names.values()))
    for said, right in corpus(seed, size=40):
        expected = scorer.score(right, said)
        assert rouge(said, right) == {n: expected[theirs].fmeasure for n, theirs in names.items()}


@pytest.mark.parametrize("text", ["Привет, мир", "猫が好き", "Ça va bien"])
def test_rouge_reads_other_scripts(text):
    assert rouge(text, text) == pytest.approx({"rouge_1": 1, "rouge_2": 1, "rouge_l": 1})
