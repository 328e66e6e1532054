"""Documents in the order of their relevance: figures of whole queries, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, log_loss, ndcg_score
from tests.tiny import tiny_model

from tunesmith.console import Console
from tunesmith.data.records import RankedTexts
from tunesmith.engine.engine import Engine
from tunesmith.errors import DataError
from tunesmith.evaluation.significance import figures
from tunesmith.models.model import Model
from tunesmith.tasks.reranking import Reranking

QUIET = Console(quiet=True)
DOCUMENTS = ["a painted wall", "the court said", "waves and salt", "fish", "judge of art", "oil"]
RECORDS = [
    RankedTexts(text="sea", documents=DOCUMENTS, relevance=[0, 0, 2, 1, 0, 1]),
    RankedTexts(text="law", documents=DOCUMENTS[:4], relevance=[0, 2, 0, 0]),
    RankedTexts(text="none", documents=DOCUMENTS[1:3], relevance=[0, 0]),
    RankedTexts(text="art", documents=DOCUMENTS[::-1], relevance=[0, 1, 0, 0, 0, 2]),
]


def bound(model: Model, **options: Any) -> Reranking:
    task = Reranking(Reranking.Options(**options))
    task.study(RECORDS)
    task.bind(model)
    return task


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_figures_equal_those_of_scikit_learn_on_the_stock_model(family: str) -> None:
    model = tiny_model(family, "multi_label", ("relevance",))
    task = bound(model)
    examples = task.encode_all(RECORDS)
    scores = task.measure(Engine(model), RECORDS, examples, generate=0, console=QUIET)
    said = []
    for record in RECORDS:
        pairs = [
            (record.text, d) if family == "bert" else (f"{record.text}\n{d}",)
            for d in record.documents
        ]
        with torch.no_grad():
            given = [model.tokenizer(*pair, return_tensors="pt") for pair in pairs]
            said.append(np.array([float(model.module(**ids).logits) for ids in given]))
    judged = [(np.array(r.relevance), s) for r, s in zip(RECORDS, said, strict=True)
              if r.text != "none"]  # fmt: skip
    found = figures(scores, task.metrics)
    expected = np.mean([ndcg_score(r[None], s[None], k=10) for r, s in judged])
    assert found["ndcg_at_10"] == pytest.approx(expected)
    expected = np.mean([average_precision_score(r > 0, s) for r, s in judged])
    assert found["average_precision"] == pytest.approx(expected)
    foremost = [1 + int((r[np.argsort(-s)] > 0).argmax()) for r, s in judged]
    assert found["reciprocal_rank"] == pytest.approx(np.mean([1 / place for place in foremost]))
    truth = np.concatenate([np.array(r.relevance) / 2 for r in RECORDS])
    shares = torch.tensor(np.concatenate(said)).sigmoid().numpy()
    plain = [
        log_loss([0.0, 1.0], [share] * 2, sample_weight=[1 - relevance, relevance])
        for relevance, share in zip(truth, shares, strict=True)
    ]
    assert found["log_likelihood"] == pytest.approx(-np.mean(plain), abs=1e-5)
    assert [score.output for score in scores] == [
        r.documents[int(s.argmax())] for r, s in zip(RECORDS, said, strict=True)
    ]


def test_held_out_queries_without_an_order_are_refused() -> None:
    task = Reranking()
    flat = RankedTexts(text="q", documents=["a", "b"], relevance=[1.0, 1.0])
    told = RankedTexts(text="r", documents=["a", "b"], relevance=[1.0, 0.0])
    task.check_held_out("test", [flat, told, told])
    task.check_held_out("validation", [flat, told])
    with pytest.raises(DataError, match="Only 1 of 2 queries of the test set"):
        task.check_held_out("test", [flat, told])
    with pytest.raises(DataError, match="Only 0 of 1 queries of the validation set"):
        task.check_held_out("validation", [flat])


def test_a_query_without_relevant_documents_has_no_part_in_the_ranking() -> None:
    model = tiny_model("bert", "multi_label", ("relevance",))
    task = bound(model)
    (score,) = task.measure(
        Engine(model), RECORDS[2:3], task.encode_all(RECORDS[2:3]), generate=0, console=QUIET
    )
    assert set(score.statistics) == {"documents", "log_likelihood"}


def test_documents_that_are_all_alike_are_an_error() -> None:
    with pytest.raises(DataError, match="have the relevance 1: there is nothing to tell apart"):
        Reranking().study([RankedTexts(text="a", documents=["b", "c"], relevance=[1, 1])])


@pytest.mark.parametrize("given", ["a text", {"query": "a"}, *({"query": "a", "documents": texts}
                                   for texts in ([], [3], [" "], "b"))])  # fmt: skip
def test_an_input_that_is_no_query_with_documents_is_an_error(given: Any) -> None:
    model = tiny_model("bert", "multi_label", ("relevance",))
    with pytest.raises(DataError, match="input 1: It is no query with documents"):
        bound(model).predict(Engine(model), [given])


def test_the_highest_relevance_is_kept_for_later() -> None:
    task = Reranking()
    task.study(RECORDS)
    again = Reranking()
    again.load_state(task.state())
    assert again.state() == {"highest": 2.0}
    assert task.present(RECORDS[0]) == ("sea", "waves and salt\n\nfish\n\noil")
