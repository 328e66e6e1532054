"""Retainers in whole runs: they go on exactly, are refused where they cannot serve, and told."""

from __future__ import annotations

import copy
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.acceptance.jobs import ANSWERS, CLASSES, TEXTS, lines
from tests.interrupting import stopping_at
from tests.tiny import tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.data.batch import Encoded
from tunesmith.data.stored import StoredExamples
from tunesmith.errors import DataError, RecipeError
from tunesmith.models.fingerprint import cache_root
from tunesmith.models.quantised import Quantised
from tunesmith.recipes.load import parse_recipe
from tunesmith.retain.base import Scene
from tunesmith.retain.replay import Replay
from tunesmith.runs.old_texts import write_texts
from tunesmith.runs.prepare import prepare
from tunesmith.runs.retain import check_replayed
from tunesmith.runs.run import Run
from tunesmith.runs.train import resume, train
from tunesmith.training.guards import Interrupted

SILENT = Console(quiet=True)
WAYS = {
    "replay": {"name": "replay", "data": ["old.jsonl"], "read_as": "text", "share": 0.3},
    "own": {"name": "replay", "generated": 6, "length": 12},
    "kl": {"name": "kl"},
    "l2_sp": {"name": "l2_sp"},
    "ewc": {"name": "ewc", "generated": 4, "length": 12},
    "interpolate": {"name": "interpolate", "shares": [0.5, 1.0]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("retention")
    (made / "train.jsonl").write_text(lines(ANSWERS))
    (made / "class.jsonl").write_text(lines(CLASSES))
    (made / "old.jsonl").write_text(lines(TEXTS))
    earlier = [{**row, "text": f"Once {row['text']}"} for row in CLASSES]
    (made / "old_class.jsonl").write_text(lines(earlier))
    asked = [{**row, "prompt": f"Once {row['prompt']}"} for row in ANSWERS]
    (made / "old_answers.jsonl").write_text(lines(asked))
    tiny_model_folder(made / "llama", "llama", dropout=0.1)
    tiny_model_folder(made / "bert", "bert")
    return made


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def recipe(folder: Path, *retain: dict[str, Any], technique: Any = "full") -> dict[str, Any]:
    return {
        "model": str(next((folder / "llama").rglob("config.json")).parent),
        "task": {"name": "instruct", "max_new_tokens": 3},
        "data": {"train": "train.jsonl", "validation": 0.2},
        "technique": technique,
        "retain": list(retain),
        "training": {"max_steps": 4, "batch_size": 4, "learning_rate": 0.01,
                     "checkpoint_every": 1},
        "evaluation": {"generate": 0, "probe": False, "resamples": 100},
    }  # fmt: skip


def classifying(folder: Path, *retain: dict[str, Any], technique: Any = "full") -> dict[str, Any]:
    return recipe(folder, *retain, technique=technique) | {
        "model": str(next((folder / "bert").rglob("config.json")).parent),
        "task": "classification",
        "data": {"train": "class.jsonl"},
    }


def weights(run: Run) -> dict[str, Any]:
    (file,) = run.folder.model.glob("*.safetensors")
    return load_file(file)


def losses(run: Run) -> list[dict[str, float]]:
    text = run.folder.events.read_text()
    return [json.loads(line)["terms"] for line in text.splitlines()]


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    way: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)
    given = recipe(folder, WAYS[way], technique={"name": "lora", "rank": 2})
    whole = train(given, runs_dir=tmp_path, name="whole", console=SILENT)
    with stopping_at(3), pytest.raises(Interrupted):
        train(given, runs_dir=tmp_path, name="stopped", console=SILENT)
    stopped = resume("stopped", runs_dir=tmp_path, console=SILENT)
    ours, theirs = weights(stopped), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert losses(stopped) == losses(whole)


def test_the_point_is_chosen_and_drawn_and_stays_when_only_the_report_is_missing(
    folder: Path, tmp_path: Path
) -> None:
    given = recipe(folder, WAYS["interpolate"])
    given["evaluation"] |= {"probe": True}
    run = train(given, runs_dir=tmp_path, name="curve", console=SILENT)
    curve = json.loads((run.path / "retain" / "curve.json").read_text())
    assert [point["share"] for point in curve["points"]] == [0.0, 0.5, 1.0]
    assert curve["chosen"] in (0.5, 1.0)
    assert all(point["general"] > 1 for point in curve["points"])
    report = run.folder.report.read_text()
    assert "What was learnt against what was known" in report
    assert "Neither the test records nor the general text had a part in the choice" in report
    taken = weights(run)
    metrics = run.folder.metrics.read_text()
    run.folder.report.unlink()
    again = resume("curve", runs_dir=tmp_path, console=SILENT)
    assert all(weights(again)[name].equal(taken[name]) for name in taken)
    assert again.folder.metrics.read_text() == metrics


def test_the_test_records_have_no_part_in_the_choice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        "tunesmith.runs.interpolation.validation_figures",
        lambda prepared, part, metrics, console: seen.append(part) or {"log_likelihood": 0.0},
    )
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)
    train(recipe(folder, WAYS["interpolate"]), runs_dir=tmp_path, name="r", console=SILENT)
    prepared = prepare(parse_recipe(recipe(folder, WAYS["interpolate"])), SILENT)
    assert prepared.validation is not None
    assert [part.data.origins for part in seen] == [prepared.validation.data.origins] * 3


def test_old_records_stand_in_the_plan_beside_the_new_ones(folder: Path) -> None:
    plain = prepare(parse_recipe(recipe(folder)), SILENT)
    mixed = prepare(parse_recipe(recipe(folder, WAYS["replay"])), SILENT)
    new = len(plain.train.examples)
    assert len(mixed.plan().examples) == new + round(new * 0.3 / 0.7)
    assert mixed.train.examples == plain.train.examples


def test_records_of_the_task_are_replayed_to_a_classifier(folder: Path, tmp_path: Path) -> None:
    given = classifying(folder, {"name": "replay", "data": ["old_class.jsonl"]}, {"name": "l2_sp"})
    run = train(given, runs_dir=tmp_path, name="class", console=SILENT)
    facts = json.loads(run.folder.summary.read_text())["retain"]
    assert facts.keys() == {"Replayed", "Pulled back"}
    assert all(terms["l2_sp"] >= 0 for terms in losses(run))


def test_replaying_what_is_held_out_is_refused_or_said(folder: Path) -> None:
    everything = {"name": "replay", "data": ["train.jsonl"], "share": 0.9}
    with pytest.raises(DataError, match="examples of the test set are replayed in training"):
        prepare(parse_recipe(recipe(folder, everything)), SILENT)
    held = prepare(parse_recipe(recipe(folder)), SILENT).test
    others = prepare(parse_recipe(recipe(folder)), SILENT).train.examples
    assert check_replayed(others, {"test": held, "validation": None}) == []
    (said,) = check_replayed(held.examples[:1], {"test": held})
    assert said.startswith(f"1 of {len(held.examples)} test examples are also replayed")


def test_what_the_model_wrote_is_kept_and_taken_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = parse_recipe(recipe(folder, {"name": "replay", "generated": 7, "length": 16}))
    first = prepare(given, SILENT).retention.replayed
    monkeypatch.setattr("tunesmith.engine.engine.Engine.generate", None)
    again = prepare(given, SILENT).retention.replayed
    assert [example.streams for example in again] == [example.streams for example in first]
    assert all(2 <= example.length <= 16 for example in first)


def test_check_counts_what_is_replayed_and_holds_a_copy(folder: Path) -> None:
    plain = api.check(recipe(folder) | {"training": {"epochs": 1}}, console=SILENT)
    given = recipe(folder, {"name": "replay", "data": ["old_answers.jsonl"]}) | {
        "training": {"epochs": 1}
    }
    assert api.check(given, console=SILENT).steps > plain.steps


@pytest.mark.parametrize(("technique", "retain", "reason"), [
    ("repurpose", [{"name": "l2_sp"}], "nothing is forgotten"),
    ("full", [{"name": "l2_sp"}, {"name": "l2_sp"}], "listed twice"),
    ("full", [{"name": "kl"}], "says nothing of them"),
])  # fmt: skip
def test_what_cannot_serve_is_refused_before_training(
    technique: str, retain: list[dict[str, Any]], reason: str, folder: Path
) -> None:
    with pytest.raises(RecipeError, match=reason):
        prepare(parse_recipe(classifying(folder, *retain, technique=technique)), SILENT)


def test_interpolation_needs_a_technique_that_begins_as_its_base(folder: Path) -> None:
    given = recipe(folder, WAYS["interpolate"], technique={"name": "prompt_tuning", "length": 2})
    with pytest.raises(RecipeError, match="does not answer as its base does"):
        prepare(parse_recipe(given), SILENT)


def test_a_file_of_old_texts_that_is_missing_is_named_with_its_place(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"no file 'olt.jsonl'[\s\S]*old.jsonl"):
        parse_recipe(recipe(folder, {"name": "replay", "data": ["olt.jsonl"]}))


@pytest.mark.usefixtures("_own_cache")
def test_stored_examples_are_not_all_made_because_old_ones_are_mixed_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.runs.encoding._STORED_FROM", 0)
    prepared = prepare(parse_recipe(recipe(folder, WAYS["replay"])), SILENT)
    assert isinstance(prepared.train.examples, StoredExamples)
    monkeypatch.setattr(StoredExamples, "__getitem__", None)
    count = len(prepared.train.examples) + len(prepared.retention.replayed)
    assert len(prepared.plan().examples) == count > len(prepared.train.examples)


def scene_of(folder: Path) -> Scene:
    given = recipe(folder, technique={"name": "lora", "rank": 2})
    prepared = prepare(parse_recipe(given), SILENT)
    return Scene(prepared.engine, prepared.objective)


def own_texts(scene: Scene, **options: Any) -> list[Encoded]:
    made = Replay.Options(**{"generated": 3, "length": 12, **options})
    return write_texts(made, scene, "the weights", SILENT)


def kept_sets() -> int:
    return len(list((cache_root() / "written").glob("[!.]*")))


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_own_cache")
def test_texts_of_a_model_are_another_models_no_more_once_anything_of_it_is_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_of(folder)
    first = own_texts(scene)
    assert own_texts(scene) == first
    assert kept_sets() == 1
    scene.engine.model.quantised = Quantised("nf4")
    own_texts(scene)
    scene.engine.model.quantised = Quantised("nf4", double=False)
    own_texts(scene)
    assert kept_sets() == 3
    monkeypatch.setattr(
        "tunesmith.runs.old_texts.versions",
        lambda: {"tunesmith": "0", "torch": "0", "transformers": "0"},
    )
    own_texts(scene)
    assert kept_sets() == 4
    scene.engine.model.tokenizer = copy.deepcopy(scene.engine.model.tokenizer)
    scene.engine.model.tokenizer.eos_token = "!"
    own_texts(scene)
    assert kept_sets() == 5


@pytest.mark.usefixtures("_own_cache")
def test_of_two_that_want_the_same_texts_one_writes_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes, calls = [scene_of(folder), scene_of(folder)], []

    def slowly(count: int, *given: Any) -> list[list[int]]:
        calls.append(count)
        time.sleep(0.3)
        return [[1, 2, 3]] * count

    monkeypatch.setattr("tunesmith.runs.old_texts._written", slowly)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(own_texts, scenes))
    assert calls == [3]
    assert found[0] == found[1]


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("way", ["own", "ewc"])
def test_a_run_goes_on_with_the_texts_that_it_began_with_though_none_are_in_the_cache(
    way: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)
    given = recipe(folder, WAYS[way], technique={"name": "lora", "rank": 2})
    with stopping_at(2), pytest.raises(Interrupted):
        train(given, runs_dir=tmp_path, name="stopped", console=SILENT)
    shutil.rmtree(cache_root() / "written")
    monkeypatch.setattr("tunesmith.runs.old_texts._written", None)  # would now write other ones
    assert resume("stopped", runs_dir=tmp_path, console=SILENT).summary["steps"] == 4


@pytest.mark.usefixtures("_own_cache")
def test_texts_that_cannot_be_read_are_written_anew(folder: Path) -> None:
    scene = scene_of(folder)
    first = own_texts(scene)
    (file,) = (cache_root() / "written").glob("[!.]*/ids.json")
    file.write_text("[[1, 2")
    assert own_texts(scene) == first
