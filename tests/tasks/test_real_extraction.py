"""A real encoder learns to answer the starter's (synthetic) questions on opening hours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from tunesmith import api
from tunesmith.cli.init import write_starter
from tunesmith.console import Console

TEXT = "The museum stands in Mill Lane. It is closed on Monday and open until noon on other days."


@pytest.mark.real_model
def test_minilm_learns_the_starter_and_transformers_alone_answers_the_same(
    tmp_path: Path, minilm_path: Path
) -> None:
    write_starter(tmp_path / "new", "extraction", "minilm-l6")
    run = api.train(
        tmp_path / "new" / "recipe.yaml", runs_dir=tmp_path / "runs", console=Console(quiet=True)
    )
    assert run.verdict == "improved"
    assert run.metrics["metrics"]["f1"]["after"] > 0.5
    question = "When is the museum closed?"
    (answer,) = run.predict([{"question": question, "context": TEXT}])
    assert answer.text == "Monday"
    model = AutoModelForQuestionAnswering.from_pretrained(run.path / "model")
    tokenizer = AutoTokenizer.from_pretrained(run.path / "model")
    given = tokenizer(question, TEXT, return_tensors="pt")
    assert "token_type_ids" not in given
    with torch.no_grad():
        said = model(**given)
    ids = given["input_ids"][0, said.start_logits.argmax() : said.end_logits.argmax() + 1]
    assert tokenizer.decode(ids) == "monday"
    assert "no answer" in run.report.read_text()
