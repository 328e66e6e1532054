"""A real English encoder learns to find French texts of an interface, from a few hundred pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from tunesmith import api
from tunesmith.console import Console

PAIRS = Path(__file__).parents[2] / "examples" / "interface_translation"


@pytest.mark.real_model
def test_minilm_learns_to_find_translations_and_sentence_transformers_gives_its_vectors(
    tmp_path: Path, minilm_path: Path
) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        rows = map(json.loads, (PAIRS / name).read_text(encoding="utf-8").splitlines())
        lines = (json.dumps({"anchor": row["input"], "positive": row["output"]}) for row in rows)
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    recipe = {
        "model": "minilm-l6",
        "task": "embedding",
        "data": {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")},
        "technique": "full",
        "training": {"epochs": 4, "learning_rate": 2e-4, "batch_size": 32},
    }
    run = api.train(recipe, runs_dir=tmp_path / "runs", console=Console(quiet=True))
    assert run.verdict == "improved"
    found = run.metrics["metrics"]["ndcg_at_10"]
    assert found["after"] > found["before"] + 0.05
    (answer,) = run.predict(["Save the page"])
    stock = SentenceTransformer(str(run.path / "model"), device="cpu")
    theirs = stock.encode("Save the page", normalize_embeddings=True)
    assert answer.vector == pytest.approx(theirs.tolist(), abs=1e-4)
