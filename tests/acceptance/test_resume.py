"""A run that is killed goes on as if it had never stopped: the final weights are bit-identical.

With dropout, packing and accumulation on; killed with SIGKILL at random steps, or asked to stop.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.tiny import tiny_model_folder

STEPS = 24
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
TECHNIQUES = {
    "lora": "{name: lora, rank: 4, dropout: 0.2}",
    "full": "full",
    "layers": "{name: layers, last: 1}",
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tunesmith", *arguments]


def finish(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )


def steps_done(run: Path) -> int:
    events = run / "events.jsonl"
    return events.read_text().count("\n") if events.exists() else 0


def start_and_signal(folder: Path, name: str, after: int, number: int) -> tuple[int, str]:
    """Start a run, send a signal once `after` lines of events stand, return (exit code, stderr)."""
    process = subprocess.Popen(
        command("train", "recipe.yaml", "--name", name),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and steps_done(folder / "runs" / name) < after:
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def weights(run: Path) -> dict:
    (file,) = (run / "model").glob("*.safetensors")
    return load_file(file)


def assert_same_run(found: Path, expected: Path) -> None:
    ours, theirs = weights(found), weights(expected)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    events = [
        [json.loads(line) for line in (run / "events.jsonl").open()] for run in (found, expected)
    ]
    told = [[(e["step"], e.get("loss"), e.get("validation")) for e in run] for run in events]
    assert told[0] == told[1]
    verdicts = [
        json.loads((run / "evaluation/metrics.json").read_text()) for run in (found, expected)
    ]
    assert verdicts[0] == verdicts[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    model = tiny_model_folder(folder, "llama", dropout=0.1)
    words = [f"w{i}" for i in range(40)]
    draw = random.Random(1)
    rows = [
        {
            "instruction": " ".join(draw.choices(words, k=draw.randint(2, 12))),
            "output": " ".join(draw.choices(words, k=draw.randint(2, 6))),
        }
        for _ in range(60)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, technique in TECHNIQUES.items():
        (folder / f"{name}.yaml").write_text(
            f"model: {model}\n"
            "task: {name: instruct, max_new_tokens: 4}\n"
            "data: {train: train.jsonl, test: 0.2}\n"
            f"technique: {technique}\n"
            f"training: {{max_steps: {STEPS}, batch_size: 6, tokens_per_batch: 130,"
            " learning_rate: 0.01, checkpoint_every: 3, validate_every: 8, keep_best: true}\n"
            "evaluation: {generate: 2, probe: false, resamples: 200}\n"
        )
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder):
    """The run of each technique that nothing stopped."""
    made: dict[str, Path] = {}

    def run(technique: str) -> Path:
        if technique not in made:
            name = f"{technique}-whole"
            done = finish(folder, "train", f"{technique}.yaml", "--name", name)
            assert done.returncode == 0, done.stderr
            made[technique] = folder / "runs" / name
        return made[technique]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_killed_at_random_steps_and_resumed_equals_uninterrupted(technique, folder, uninterrupted):
    (folder / "recipe.yaml").write_text((folder / f"{technique}.yaml").read_text())
    draw = random.Random(technique)
    for attempt in range(2):
        name = f"{technique}-killed-{attempt}"
        code, _ = start_and_signal(folder, name, draw.randint(2, STEPS - 2), signal.SIGKILL)
        assert code == -signal.SIGKILL
        resumed = finish(folder, "train", "--resume", name)
        assert resumed.returncode == 0, resumed.stderr
        assert_same_run(folder / "runs" / name, uninterrupted(technique))


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_saves_it_and_says_how_to_go_on(folder, uninterrupted):
    (folder / "recipe.yaml").write_text((folder / "lora.yaml").read_text())
    code, said = start_and_signal(folder, "stopped", 5, signal.SIGINT)
    assert code == 130, said
    assert "Traceback" not in said
    run = folder / "runs" / "stopped"
    step = int((run / "checkpoints/latest").read_text().removeprefix("step-"))
    assert f"step {step} of {STEPS}" in said
    assert re.search(r"tunesmith train --resume \S*stopped", said)
    assert finish(folder, "train", "--resume", "stopped").returncode == 0
    assert_same_run(run, uninterrupted("lora"))


@pytest.mark.slow
def test_a_run_stopped_twice_still_equals_uninterrupted(folder, uninterrupted):
    (folder / "recipe.yaml").write_text((folder / "lora.yaml").read_text())
    start_and_signal(folder, "twice", 4, signal.SIGKILL)
    process = subprocess.Popen(
        command("train", "--resume", "twice"),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and steps_done(folder / "runs/twice") < 14:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert finish(folder, "train", "--resume", "twice").returncode == 0
    assert_same_run(folder / "runs/twice", uninterrupted("lora"))


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(folder, uninterrupted):
    run = uninterrupted("lora")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    again = finish(folder, "train", "--resume", run.name)
    assert again.returncode == 0
    assert "finished already" in again.stderr
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert {p: t for p, t in after.items() if p.name != ".lock"} == {
        p: t for p, t in before.items() if p.name != ".lock"
    }
