"""The probe: its text, whom it suits, and what it says was forgotten."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.resources import files

import pytest
import torch
from tests.tasks.plain_engine import PlainEngine
from tests.tiny import tiny_bert, tiny_llama, tiny_model

from tunesmith.console import Console
from tunesmith.errors import RunError
from tunesmith.evaluation.probe import (
    compare_probe,
    general_probe,
    probe_refusal,
    probe_scores,
)

QUIET = Console(quiet=True)


def test_the_probe_is_thirteen_paragraphs_with_their_licence_beside_them():
    documents = general_probe()
    assert len(documents) == 13
    assert all(600 <= len(document.text) <= 1300 for document in documents)
    notice = files("tunesmith.evaluation").joinpath("probes/README.md").read_text("utf-8")
    assert "creativecommons.org/licenses/by-sa/4.0" in notice
    assert "Wikipedia" in notice


def test_perplexity_of_the_probe_is_that_of_the_stock_model():
    model = tiny_llama()
    model = replace(model, anatomy=replace(model.anatomy, context_length=2000))
    scores = probe_scores(PlainEngine(model), QUIET)
    text = general_probe()[0].text
    ids = model.tokenizer(text)["input_ids"] + [model.tokenizer.eos_token_id]
    with torch.no_grad():
        loss = model.module(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    first = scores[0].statistics
    assert -first["log_likelihood"] / first["tokens"] == pytest.approx(loss, abs=1e-4)
    total = sum(score.statistics["log_likelihood"] for score in scores)
    tokens = sum(score.statistics["tokens"] for score in scores)
    result = compare_probe(scores, scores)
    assert result.before == result.after == pytest.approx(math.exp(-total / tokens))
    assert result.tokens == tokens
    assert result.worse is False


def test_forgetting_is_seen():
    model, other = tiny_llama(), tiny_llama()
    before = probe_scores(PlainEngine(model), QUIET)
    with torch.no_grad():
        other.output_weight_VD.mul_(3)
    result = compare_probe(before, probe_scores(PlainEngine(other), QUIET), resamples=500)
    assert result.after > result.before
    assert result.worse is True
    assert result.interval[0] > 0


def test_a_model_without_a_layer_over_the_vocabulary_says_why_there_is_no_probe():
    encoder = PlainEngine(tiny_bert())
    classifier = PlainEngine(tiny_model("llama", "classification", ("a", "b")))
    assert "encoder" in probe_refusal(encoder)
    assert "head for classes" in probe_refusal(classifier)
    assert probe_scores(encoder, QUIET) is None
    assert probe_scores(classifier, QUIET) is None


def test_a_broken_model_is_an_error():
    scores = probe_scores(PlainEngine(tiny_llama()), QUIET)
    broken = [replace(s, statistics=s.statistics | {"log_likelihood": math.nan}) for s in scores]
    with pytest.raises(RunError, match="perplexity"):
        compare_probe(scores, broken, resamples=10)
