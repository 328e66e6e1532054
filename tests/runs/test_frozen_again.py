"""A finished run is measured again from the rows that training kept, to the same figures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.acceptance.jobs import ANSWERS, CLASSES, lines
from tests.tiny import tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.models.cache_space import shelf

SILENT = Console(quiet=True)
HEAD = {"name": "layers", "last": 0}
LAST = {"name": "layers", "last": 1}
JOBS = [("bert", HEAD), ("bert", LAST), ("llama", LAST), ("bert", {"name": "repurpose"}),
        ("bert", {"name": "repurpose", "head": "linear"})]  # fmt: skip
ATTENTION = ("BertSelfAttention", "LlamaAttention")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("again")
    for family in ("llama", "bert"):
        tiny_model_folder(folder, family, dropout=0.1)
    (folder / "answers.jsonl").write_text(lines(ANSWERS))
    (folder / "classes.jsonl").write_text(lines(CLASSES))
    others = [{**row, "text": f"{row['text']} again"} for row in CLASSES]
    (folder / "others.jsonl").write_text(lines(others))
    return folder


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)
    monkeypatch.setattr("tunesmith.runs.result.verify_saved", lambda *given: 0.0)


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How many layers have attended while something was measured, since it was last asked."""
    from tunesmith.runs import evaluate

    counts, measuring = [0], [False]

    def note(module: torch.nn.Module, given: Any) -> None:
        counts[0] += measuring[0] and type(module).__name__ in ATTENTION

    def scores(*given: Any) -> Any:
        measuring[0] = True
        try:
            return stock(*given)
        finally:
            measuring[0] = False

    stock = evaluate._scores
    monkeypatch.setattr(evaluate, "_scores", scores)
    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)

    def since() -> int:
        found, counts[0] = counts[0], 0
        return found

    yield since
    handle.remove()


def trained(folder: Path, family: str, technique: dict[str, Any], **training: Any) -> api.Run:
    classes = family == "bert"
    recipe = {
        "model": str(folder / f"tiny-{family}-0"),
        "task": "classification" if classes else {"name": "instruct", "max_new_tokens": 3},
        "data": {"train": str(folder / ("classes.jsonl" if classes else "answers.jsonl"))},
        "technique": technique,
        "training": {"max_steps": 2, "batch_size": 8, "precision": "float32", **training},
        "evaluation": {"generate": 0, "probe": False, "resamples": 100},
    }
    return api.train(recipe, console=SILENT)


@pytest.mark.parametrize(("family", "technique"), JOBS)
def test_frozen_layers_are_not_computed_again(family, technique, folder, attended):
    run = trained(folder, family, technique)
    again = api.evaluate(run, console=SILENT)
    learnt = technique.get("last", 0)
    batches = 2 * 1  # base and result, and one batch of test records
    assert attended() == batches * learnt
    assert again.metrics["metrics"] == run.metrics["metrics"]


def test_of_other_records_they_are_computed_once_for_base_and_result(folder, attended):
    run = trained(folder, "bert", HEAD)
    there = set(shelf("frozen").glob("[!.]*"))
    first = api.evaluate(run, folder / "others.jsonl", console=SILENT)
    assert attended() == 0
    assert len(set(shelf("frozen").glob("[!.]*")) - there) == 1
    shutil.rmtree(shelf("frozen"))
    again = api.evaluate(run, folder / "others.jsonl", console=SILENT)
    assert again.metrics["metrics"] == first.metrics["metrics"]


def test_a_run_that_computed_them_in_every_pass_goes_on_doing_so(folder, attended):
    run = trained(folder, "bert", HEAD, cache_gb=0.0)
    kept = api.evaluate(run, console=SILENT)
    assert attended() == 2 * 2
    assert not list(shelf("frozen").glob("[!.]*"))
    for name, row in run.metrics["metrics"].items():
        assert kept.metrics["metrics"][name]["after"] == pytest.approx(row["after"], rel=1e-5)


def test_the_figures_are_those_of_computing_every_time(folder):
    for family, technique in JOBS[:3]:
        run = trained(folder, family, technique)
        kept = api.evaluate(run, console=SILENT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tunesmith.runs.evaluate.share_rows", lambda *given: None)
            computed = api.evaluate(run, console=SILENT)
        for name, row in computed.metrics["metrics"].items():
            for when in ("before", "after"):
                found = kept.metrics["metrics"][name][when]
                assert found == pytest.approx(row[when], rel=1e-4), (family, name)


def test_a_result_with_other_frozen_weights_computes_its_own(folder, attended):
    run = trained(folder, "bert", HEAD)
    tuned = run.engine("tuned")
    next(tuned.model.body.embeddings.parameters()).data.mul_(1.5)
    changed = api.evaluate(run, console=SILENT)
    assert attended() == 2  # two layers of the result
    assert changed.metrics["metrics"] != run.metrics["metrics"]


def test_afterwards_the_run_answers_other_texts(folder):
    run = trained(folder, "bert", HEAD)
    before = run.predict(["The apple was fine"])[0].probabilities
    api.evaluate(run, console=SILENT)
    assert run.engine("tuned").kept is None
    assert run.predict(["The apple was fine"])[0].probabilities == before
