"""The probe on a real model: it must be text that such a model knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.console import Console
from tunesmith.engine.engine import Engine
from tunesmith.evaluation.probe import compare_probe, probe_scores
from tunesmith.models.load import load_model
from tunesmith.models.resolve import resolve


@pytest.mark.real_model
@pytest.mark.slow
def test_a_real_model_reads_the_probe_with_ease(smollm2_path: Path):
    model = load_model(resolve(str(smollm2_path)), head="causal_lm")
    scores = probe_scores(Engine(model), Console(quiet=True))
    found = compare_probe(scores, scores, resamples=100)
    assert 2000 < found.tokens < 3500
    assert 5 < found.before < 40
