"""A run on streamed records: it ends in the same bits however often it was interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.jobs import ANSWERS, CLASSES, lines
from tests.interrupting import state, train_and_kill
from tests.tiny import tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.errors import DataError, InputError, RecipeError
from tunesmith.recipes.load import parse_recipe
from tunesmith.runs.prepare import prepare
from tunesmith.training.loop import Loop

SILENT = Console(quiet=True)
STEPS = 9
TESTED = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, three shards of answers, one of classes, and test files of their own."""
    folder = tmp_path_factory.mktemp("streamed")
    tiny_model_folder(folder, "llama", dropout=0.1)
    tiny_model_folder(folder, "bert", dropout=0.1)
    learnt, tested = ANSWERS[:-TESTED], ANSWERS[-TESTED:]
    for place, rows in enumerate((learnt[:8], learnt[8:9], learnt[9:])):
        (folder / f"part-{place}.jsonl").write_text(lines(rows))
    (folder / "test.jsonl").write_text(lines(tested))
    (folder / "classes.jsonl").write_text(lines(CLASSES[:-TESTED]))
    (folder / "classes-test.jsonl").write_text(lines(CLASSES[-TESTED:]))
    return folder


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tunesmith.runs.result.verify_saved", lambda *given: 0.0)


def recipe(folder: Path, technique: Any = "full", **data: Any) -> dict[str, Any]:
    shards = [str(folder / f"part-{place}.jsonl") for place in range(3)]
    test = str(folder / "test.jsonl")
    return {
        "model": str(folder / "tiny-llama-0"),
        "task": {"name": "instruct", "max_new_tokens": 3},
        "data": {"train": shards, "test": test, "streaming": True, "window": 7, **data},
        "technique": technique,
        "training": {
            "max_steps": STEPS,
            "batch_size": 3,
            "tokens_per_batch": 60,
            "learning_rate": 0.01,
            "checkpoint_every": 1,
            "keep_checkpoints": 20,
        },
        "evaluation": {"generate": 0, "probe": False, "resamples": 100},
    }


def lost_and_learnt(run: api.Run) -> list[tuple[Any, ...]]:
    events = map(json.loads, (run.path / "events.jsonl").open())
    return [(event["step"], event["loss"], event["epoch"]) for event in events]


def test_a_run_that_was_killed_ends_with_the_same_bits(folder):
    made = recipe(folder)
    whole = api.train(made, name="whole", console=SILENT)
    for step in (4, 6):  # within the first shard's second window, and at a window's end
        train_and_kill(made, at=step)
        resumed = api.resume("killed", console=SILENT)
        assert state(resumed.path) == state(whole.path)
        assert resumed.metrics == whole.metrics
        assert resumed.summary["data"]["train"] == whole.summary["data"]["train"]
        assert lost_and_learnt(resumed) == lost_and_learnt(whole)
        shutil.rmtree(resumed.path)


def test_the_sampler_keeps_shard_and_offset_in_the_checkpoint(folder):
    run = api.train(recipe(folder), console=SILENT)
    saved = run.path / "checkpoints" / "step-000004" / "progress.json"
    position = json.loads(saved.read_text())["position"]
    first = (folder / "part-0.jsonl").read_text().splitlines(keepends=True)
    assert position["position"] == {
        "passes": 0,
        "shard": 0,
        "byte": len("".join(first[:7])),
        "number": 7,
    }
    assert position["steps"] == 1


def test_what_was_read_stands_in_summary_and_report(folder):
    run = api.train(recipe(folder), console=SILENT)
    assert run.summary["data"]["train"] == {
        "file": "part-0.jsonl, part-1.jsonl, part-2.jsonl",
        "records": 26,  # a pass of 19 and the first window again
        "examples": 26,
        "tokens": run.summary["data"]["train"]["tokens"],
        "trained_tokens": run.summary["data"]["train"]["trained_tokens"],
    }
    assert run.summary["data"]["train"]["tokens"] > run.summary["data"]["test"]["tokens"]
    assert "part-0.jsonl" in run.report.read_text()
    again = api.evaluate(run, console=SILENT)
    assert again.metrics["metrics"]["log_likelihood"]["after"] == pytest.approx(
        run.metrics["metrics"]["log_likelihood"]["after"], rel=1e-4
    )


def test_every_task_that_learns_by_steps_can_be_streamed(folder):
    made = recipe(folder, {"name": "lora", "rank": 2})
    made |= {"model": str(folder / "tiny-bert-0"), "task": "classification"}
    made["data"] |= {
        "train": str(folder / "classes.jsonl"),
        "test": str(folder / "classes-test.jsonl"),
    }
    run = api.train(made, console=SILENT)
    assert run.summary["steps"] == STEPS
    assert set(run.summary["data"]["classes"]) == {"good", "bad"}


def test_a_class_that_comes_later_is_an_error_that_names_the_record(folder, tmp_path):
    rows = [*CLASSES[:8], {"text": "The apple was new", "label": "unknown"}]
    (tmp_path / "late.jsonl").write_text(lines(rows))
    made = recipe(folder)
    made |= {"model": str(folder / "tiny-bert-0"), "task": "classification"}
    made["data"] |= {
        "train": str(tmp_path / "late.jsonl"),
        "test": str(folder / "classes-test.jsonl"),
    }
    with pytest.raises(DataError, match=r"late.jsonl:9.*'unknown'"):
        api.train(made, console=SILENT)


def test_a_check_says_that_it_saw_the_first_window(folder):
    found = api.check(recipe(folder), console=SILENT)
    assert found.train.records == 7
    assert found.steps == STEPS
    assert any("streamed from 3 shards in windows of 7" in remark for remark in found.remarks)


def test_test_records_that_come_by_in_the_stream_are_counted_and_too_many_are_an_error(
    folder, tmp_path
):
    made = recipe(folder)
    (tmp_path / "leak.jsonl").write_text(lines([*ANSWERS[:18], ANSWERS[-1]]))
    made["data"]["train"] = str(tmp_path / "leak.jsonl")
    run = api.train(made, console=SILENT)
    assert any("1 streamed records also stand in" in w for w in run.summary["data"]["warnings"])
    (tmp_path / "leak.jsonl").write_text(lines([*ANSWERS[:14], *ANSWERS[-TESTED:]]))
    with pytest.raises(DataError, match="test records have stood among the streamed"):
        api.train(made, console=SILENT)


def test_test_records_that_came_by_before_an_interruption_are_not_forgotten(folder, tmp_path):
    made = recipe(folder)
    tested = ANSWERS[-TESTED:]
    rows = [*tested[:2], *ANSWERS[:12], tested[2], *ANSWERS[12:18]]  # the third: in a later window
    (tmp_path / "leak.jsonl").write_text(lines(rows))
    made["data"]["train"] = str(tmp_path / "leak.jsonl")
    train_and_kill(made, at=5)  # within the second window
    with pytest.raises(DataError, match="3 of 6 test records have stood among the streamed"):
        api.resume("killed", console=SILENT)


@pytest.mark.parametrize("key", [("met",), ("position", "byte")])
def test_a_position_of_an_older_version_that_lacks_something_says_so(folder, key):
    train_and_kill(recipe(folder), at=5)
    latest = (
        Path("runs/killed/checkpoints") / Path("runs/killed/checkpoints/latest").read_text().strip()
    )
    progress = json.loads((latest / "progress.json").read_text())
    inside = progress["position"] if len(key) == 1 else progress["position"][key[0]]
    del inside[key[-1]]
    (latest / "progress.json").write_text(json.dumps(progress))
    files = [file for file in sorted(latest.iterdir()) if file.name != "SHA256SUMS"]
    sums = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files]
    (latest / "SHA256SUMS").write_text("".join(sums))
    with pytest.raises(InputError, match=f"progress.json: It lacks '{key[-1]}', .* an older one"):
        api.resume("killed", console=SILENT)


def test_files_that_have_changed_are_not_gone_on_with(folder, tmp_path):
    made = recipe(folder)
    grows = tmp_path / "grows.jsonl"
    grows.write_text((folder / "part-2.jsonl").read_text())
    made["data"]["train"] = str(grows)
    train_and_kill(made, at=3)
    with grows.open("a") as file:
        file.write(lines(ANSWERS[:1]))
    with pytest.raises(InputError, match="the streamed files"):
        api.resume("killed", console=SILENT)


def test_two_windows_are_all_that_is_held_of_the_records(folder, monkeypatch):
    held = []
    real = Loop._step

    def step(loop: Loop, *given: Any) -> None:
        real(loop, *given)
        laid = loop.plan._laid
        held.append(len(laid.examples))

    monkeypatch.setattr(Loop, "_step", step)
    api.train(recipe(folder), console=SILENT)
    assert max(held) <= 7


REFUSED = [
    ({"training": {"max_steps": None, "epochs": 1.0}}, "training.max_steps", "no end"),
    ({"data": {"test": 0.2}}, "data.test", "never seen whole"),
    ({"data": {"validation": 0.1}}, "data.validation", "never seen whole"),
    ({"data": {"group": "topic"}}, "data.group", "cannot be grouped"),
]


@pytest.mark.parametrize(("change", "where", "what"), REFUSED)
def test_what_a_stream_cannot_do_is_refused_with_the_recipe(change, where, what, folder):
    made = recipe(folder)
    for section, values in change.items():
        made[section] = {**made[section], **values}
    with pytest.raises(RecipeError, match=what) as caught:
        parse_recipe(made)
    assert where in str(caught.value)


def test_a_technique_that_solves_at_once_is_refused(folder):
    made = recipe(folder, "repurpose")
    made |= {"model": str(folder / "tiny-bert-0"), "task": "classification"}
    made["data"] |= {
        "train": str(folder / "classes.jsonl"),
        "test": str(folder / "classes-test.jsonl"),
    }
    with pytest.raises(RecipeError, match="solves for all records at once"):
        prepare(parse_recipe(made), SILENT)


def test_old_examples_are_not_mixed_into_a_stream(folder):
    made = recipe(folder) | {"retain": [{"name": "replay", "data": [str(folder / "part-0.jsonl")]}]}
    with pytest.raises(RecipeError, match="a stream has no end"):
        prepare(parse_recipe(made), SILENT)


def test_validations_need_a_file(folder):
    made = recipe(folder)
    made["training"] |= {"validate_every": 2}
    with pytest.raises(DataError, match="none to spare"):
        prepare(parse_recipe(made), SILENT)
    made["data"]["validation"] = str(folder / "test.jsonl")
    made["data"]["test"] = str(folder / "part-2.jsonl")
    made["data"]["train"] = [str(folder / "part-0.jsonl"), str(folder / "part-1.jsonl")]
    run = api.train(made, console=SILENT)
    assert run.summary["data"]["validation"]["records"] == TESTED


def test_of_a_stream_it_is_the_first_window_in_which_texts_of_control_tokens_are_counted(
    folder: Path, tmp_path: Path
) -> None:
    shard = tmp_path / "saying.jsonl"
    shard.write_text(lines([row | {"prompt": "Say <|im_end|>"} for row in ANSWERS[:-TESTED]]))
    prepared = prepare(parse_recipe(recipe(folder, train=str(shard))), SILENT)
    [said] = [text for text in prepared.warnings if "control token" in text]
    assert said.startswith("7 of 7 train records of the first window say the text")
