"""Embedding: losses and figures equal to those of sentence-transformers, and what is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import (
    CoSENTLoss,
    MultipleNegativesRankingLoss,
)
from tests.tiny import tiny_model, tiny_model_folder

from tunesmith.console import Console
from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.data.dataset import load_dataset
from tunesmith.data.records import RelatedTexts
from tunesmith.engine.engine import Engine
from tunesmith.errors import DataError, RecipeError
from tunesmith.evaluation.significance import figures
from tunesmith.models.load import load_model, load_result
from tunesmith.models.model import Model
from tunesmith.models.resolve import resolve
from tunesmith.models.saving import verify_saved
from tunesmith.models.seeded import seeded
from tunesmith.objectives.base import Objective, Vectors
from tunesmith.objectives.in_batch_negatives import InBatchNegatives
from tunesmith.objectives.score_order import ScoreOrder
from tunesmith.registry import TECHNIQUES
from tunesmith.tasks.embedding import Embedding
from tunesmith.techniques.base import ParameterGroup

QUIET = Console(quiet=True)
TEXTS = (
    "salt",
    "a painted wall",
    "the court said so",
    "oil and fish",
    "sea",
    "x",
    "long ago, twice",
)
PAIRS = [RelatedTexts(text=f"why {t}", other=t) for t in TEXTS]
TRIPLETS = [
    RelatedTexts(text=f"why {t}", other=t, wrong=[f"not {t}", t[::-1] + "!"]) for t in TEXTS
]
SCORED = [
    RelatedTexts(text=t, other=t[: len(t) // 2] + "s", score=float(i % 4))
    for i, t in enumerate(TEXTS)
]


def bound(model: Model, records: list[RelatedTexts], **options: object) -> Embedding:
    task = Embedding(Embedding.Options(**options))
    task.study(records)
    task.bind(model)
    return task


def embed(model: Model, text: str) -> torch.Tensor:
    """The vector of one text, by the stock body and the plain definition of its pooling."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    hidden = model.module(input_ids=ids)[0][0]
    return hidden.mean(0) if model.pooling == "mean" else hidden[-1]


class Looked(torch.nn.Module):
    """Stands for a SentenceTransformer: gives back the vectors that it is fed."""

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sentence_embedding": features["vectors"]}


def theirs(loss: type[Any], parts: list[torch.Tensor], labels: torch.Tensor | None) -> torch.Tensor:
    return loss(Looked())([{"vectors": part} for part in parts], labels)


@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "gpt2"])
@pytest.mark.parametrize(
    ("records", "objective", "loss"),
    [
        (PAIRS, InBatchNegatives(), MultipleNegativesRankingLoss),
        (TRIPLETS, InBatchNegatives(), MultipleNegativesRankingLoss),
        (SCORED, ScoreOrder(), CoSENTLoss),
    ],
    ids=["pairs", "triplets", "scored"],
)
def test_loss_and_gradients_equal_those_of_sentence_transformers(
    family: str, records: list[RelatedTexts], objective: Objective, loss: type[Any]
) -> None:
    model = tiny_model(family, "embedding")
    task = bound(model, records)
    assert task.objective == objective.name
    names = {n: p.requires_grad_() for n, p in model.module.named_parameters()}
    engine = Engine(model, [ParameterGroup(names)])
    batch = collate(task.encode_all(records))
    shares, _ = engine.forward_backward(batch, objective, objective.counts(batch))
    ours = {n: p.grad.clone() for n, p in names.items() if p.grad is not None}
    model.module.zero_grad()
    columns = zip(*([r.text, r.other, *r.wrong] for r in records), strict=True)
    parts = [torch.stack([embed(model, text) for text in column]) for column in columns]
    expected = theirs(loss, parts, batch.labels)
    expected.backward()
    assert sum(shares.values()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, names[name].grad, rtol=2e-3, atol=1e-5, msg=name)


def test_a_text_that_is_right_as_well_is_no_negative() -> None:
    def example(query: int, right: int) -> Encoded:
        return Encoded({"text": EncodedStream((query,)), "right": EncodedStream((right,))}, 1)

    vectors = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    vectors[1, 2] = vectors[1, 0]
    twice = collate([example(1, 5), example(2, 6), example(3, 5)])
    alone = collate([example(1, 5), example(2, 6)])
    objective = InBatchNegatives()
    with_it = objective.loss(Vectors(vectors), twice)["nll"].total
    without = objective.loss(Vectors(vectors[:, :2]), alone)["nll"].total
    third = objective.loss(Vectors(vectors[:, 1:]), collate([example(2, 6), example(3, 5)]))
    # the second query sees one candidate twice; the first and the third see each other's not at all
    assert float(with_it) < float(without + third["nll"].total)
    same_query = collate([example(1, 5), example(1, 6)])
    assert float(objective.loss(Vectors(vectors[:, :2]), same_query)["nll"].total) == 0.0


def test_figures_equal_those_of_sentence_transformers(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path, "bert")
    model = load_model(resolve(str(folder)), head="embedding")
    TECHNIQUES.get("full")().save(model, tmp_path / "saved")
    stock = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    task = bound(model, PAIRS)
    scores = task.measure(Engine(model), PAIRS, [], generate=0, console=QUIET)
    evaluator = InformationRetrievalEvaluator(
        {str(i): r.text for i, r in enumerate(PAIRS)},
        {str(i): r.other for i, r in enumerate(PAIRS)},
        {str(i): {str(i)} for i in range(len(PAIRS))},
        name="t", mrr_at_k=[100], ndcg_at_k=[10], accuracy_at_k=[1], precision_recall_at_k=[1, 10],
        map_at_k=[100],
    )  # fmt: skip
    expected = evaluator(stock)
    found = figures(scores, task.metrics)
    assert found["ndcg_at_10"] == pytest.approx(expected["t_cosine_ndcg@10"])
    assert found["recall_at_1"] == pytest.approx(expected["t_cosine_recall@1"])
    assert found["reciprocal_rank"] == pytest.approx(expected["t_cosine_mrr@100"])
    scored = bound(model, SCORED)
    rows = scored.measure(Engine(model), SCORED, [], generate=0, console=QUIET)
    one, other = (stock.encode([getattr(r, side) for r in SCORED], normalize_embeddings=True)
                  for side in ("text", "other"))  # fmt: skip
    rho = spearmanr((one * other).sum(1), [r.score for r in SCORED]).statistic
    assert figures(rows, scored.metrics)["spearman"] == pytest.approx(rho)


def test_triplets_count_how_many_negatives_are_farther() -> None:
    model = tiny_model("bert", "embedding")
    task = bound(model, TRIPLETS)
    scores = task.measure(Engine(model), TRIPLETS, [], generate=0, console=QUIET)
    for record, score in zip(TRIPLETS, scores, strict=True):
        query, right, *wrong = (
            torch.nn.functional.normalize(embed(model, text), dim=0).detach()
            for text in (record.text, record.other, *record.wrong)
        )
        farther = [float(query @ text) < float(query @ right) for text in wrong]
        assert score.statistics["triplets"] == np.mean(farther)


@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "gpt2"])
@pytest.mark.parametrize("technique", ["full", "layers", "lora"])
def test_sentence_transformers_gives_the_same_vectors(
    tmp_path: Path, family: str, technique: str
) -> None:
    model = load_model(resolve(str(tiny_model_folder(tmp_path, family))), head="embedding")
    method = TECHNIQUES.get(technique)()
    with seeded(1):
        method.prepare(model)
        for parameter in model.module.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    method.save(model, tmp_path / "saved")
    assert verify_saved(model, tmp_path / "saved", [7, 8, 9, 30]) < 1e-5
    stock = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    texts = ["a text", "another text, and longer"]
    again = load_result(tmp_path / "saved")
    for text, row in zip(texts, stock.encode(texts, convert_to_tensor=True), strict=True):
        torch.testing.assert_close(row, embed(model, text), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(embed(again, text), embed(model, text), rtol=1e-5, atol=1e-6)


def test_a_technique_whose_adapters_sentence_transformers_cannot_load_is_refused() -> None:
    for name, refused in (("vera", True), ("lora", False), ("ia3", False), ("prefix_tuning", True)):
        assert bool(TECHNIQUES.get(name).refuses("embedding", "encoder")) == refused


def test_records_of_two_kinds_or_without_difference_are_errors() -> None:
    for records, what in (
        ([*PAIRS, SCORED[0]], "Some training records have a score"),
        ([SCORED[0], SCORED[4]], r"All training records have the score 0"),
        ([PAIRS[0], PAIRS[0]], "the same right text"),
        ([*PAIRS, TRIPLETS[0]], "have 0 to 2 negatives"),
    ):
        with pytest.raises(DataError, match=what):
            Embedding().study(records)
    task = bound(tiny_model("bert", "embedding"), PAIRS)
    with pytest.raises(DataError, match="record 1: The training records have 0 negatives"):
        task.encode_all([TRIPLETS[0]])
    again = Embedding()
    again.load_state(bound(tiny_model("bert", "embedding"), SCORED).state())
    assert (again.objective, again.primary, set(again.metrics)) == (
        "score_order", "spearman", {"spearman"},
    )  # fmt: skip


def test_long_texts_are_cut_and_it_is_said() -> None:
    model = tiny_model("bert", "embedding")
    encoded = bound(model, PAIRS, max_length=8).encode(RelatedTexts(text="abcdefghij", other="ab"))
    assert encoded.streams["text"].ids[-1] == model.tokenizer.sep_token_id
    assert (encoded.cut.side, encoded.cut.tokens, encoded.length) == ("end", 4, 12)
    with pytest.raises(RecipeError, match="no room for text"):
        bound(tiny_model("bert", "embedding"), PAIRS, max_length=2)


def test_a_prediction_is_a_vector_of_length_one() -> None:
    model = tiny_model("bert", "embedding")
    (prediction,) = bound(model, PAIRS).predict(Engine(model), ["salt"])
    expected = torch.nn.functional.normalize(embed(model, "salt"), dim=0)
    assert prediction.vector == pytest.approx(expected.tolist(), abs=1e-5)
    with pytest.raises(DataError, match="input 1: It is a int"):
        bound(model, PAIRS).predict(Engine(model), [3])


def load(folder: Path, *rows: dict[str, Any]) -> list[RelatedTexts]:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_dataset([str(folder / "a.jsonl")], RelatedTexts).records


def test_pairs_triplets_and_scored_pairs_are_read(tmp_path: Path) -> None:
    pair = {"anchor": "a", "positive": "b"}
    assert load(tmp_path, pair)[0] == RelatedTexts(text="a", other="b")
    assert load(tmp_path, pair | {"negative": "c"})[0].wrong == ["c"]
    assert load(tmp_path, pair | {"negatives": ["c", "d"]})[0].wrong == ["c", "d"]
    scored = {"sentence1": "a", "sentence2": "b", "score": "0.5"}
    assert load(tmp_path, scored)[0] == RelatedTexts(text="a", other="b", score=0.5)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"anchor": " ", "positive": "b"}, "anchor: found an empty text"),
        ({"anchor": "a", "positive": 3}, "positive: found 3"),
        ({"anchor": "a", "positive": "b", "negatives": [" "]}, r"negatives\[0\]: found an empty"),
        ({"anchor": "a", "positive": "b", "negatives": 3}, "negatives: found 3"),
        ({"sentence1": "a", "sentence2": "b", "score": "high"}, "score: found the text 'high'"),
        ({"sentence1": "a", "sentence2": "b", "score": True}, "score: found true"),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError, match=what):
        load(tmp_path, row)
