"""A run that is killed goes on as if it had never stopped: the final weights are bit-identical.

With dropout, packing and accumulation on; killed with SIGKILL at random steps, or asked to stop.
"""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.tiny import tiny_model_folder

from tunesmith.cli.main import run

FORK = multiprocessing.get_context("fork")
STEPS = 24
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
TECHNIQUES = {
    "lora": "{name: lora, rank: 4, dropout: 0.2}",
    "full": "full",
    "layers": "{name: layers, last: 1}",
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tunesmith", *arguments]


def steps_done(run: Path) -> int:
    events = run / "events.jsonl"
    return events.read_text().count("\n") if events.exists() else 0


def _child(folder: Path, said: Path, arguments: tuple[str, ...]) -> None:
    """The command line in a process of its own, without the seconds that importing takes."""
    os.chdir(folder)
    with said.open("w", buffering=1) as sys.stdout:
        sys.stderr = sys.stdout
        code = run(list(arguments))
    os._exit(code)


def start(folder: Path, *arguments: str):
    process = FORK.Process(target=_child, args=(folder, folder / "said.txt", arguments))
    process.start()
    return process


def finish(folder: Path, *arguments: str) -> str:
    """Run a command to its end; return what it said."""
    process = start(folder, *arguments)
    process.join(timeout=300)
    said = (folder / "said.txt").read_text()
    assert process.exitcode == 0, said
    return said


def kill_after(folder: Path, name: str, steps: int, *arguments: str) -> None:
    """Start a command and kill it as soon as so many lines of events stand."""
    process = start(folder, *arguments)
    while process.is_alive() and steps_done(folder / "runs" / name) < steps:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, (folder / "said.txt").read_text()


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
            "evaluation: {generate: 0, probe: false, resamples: 200}\n"
        )
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder):
    """The run of each technique that nothing stopped."""
    made: dict[str, Path] = {}

    def whole(technique: str) -> Path:
        if technique not in made:
            name = f"{technique}-whole"
            # Here, not in a process of its own: what it imports, the forked ones need not.
            with contextlib.chdir(folder):
                assert run(["train", f"{technique}.yaml", "--name", name]) == 0
            made[technique] = folder / "runs" / name
        return made[technique]

    return whole


@pytest.mark.slow
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_killed_at_random_steps_and_resumed_equals_uninterrupted(technique, folder, uninterrupted):
    expected, draw = uninterrupted(technique), random.Random(technique)
    for attempt in range(3):
        name = f"{technique}-killed-{attempt}"
        steps = draw.randint(2, STEPS - 3)
        kill_after(folder, name, steps, "train", f"{technique}.yaml", "--name", name)
        finish(folder, "train", "--resume", name)
        assert_same_run(folder / "runs" / name, expected)


@pytest.mark.slow
def test_a_run_killed_twice_still_equals_uninterrupted(folder, uninterrupted):
    kill_after(folder, "twice", 4, "train", "lora.yaml", "--name", "twice")
    kill_after(folder, "twice", 14, "train", "--resume", "twice")
    finish(folder, "train", "--resume", "twice")
    assert_same_run(folder / "runs/twice", uninterrupted("lora"))


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_saves_it_and_says_how_to_go_on(folder, uninterrupted):
    process = subprocess.Popen(
        command("train", "lora.yaml", "--name", "stopped"),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = folder / "runs" / "stopped"
    while process.poll() is None and steps_done(run) < 5:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    step = int((run / "checkpoints/latest").read_text().removeprefix("step-"))
    assert f"step {step} of {STEPS}" in said
    assert "Go on with: tunesmith train --resume runs/stopped" in said
    finish(folder, "train", "--resume", "stopped")
    assert_same_run(run, uninterrupted("lora"))


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(folder, uninterrupted):
    done = uninterrupted("lora")

    def files() -> dict[Path, int]:
        return {
            f: f.stat().st_mtime_ns for f in done.rglob("*") if f.is_file() and f.name[0] != "."
        }

    before = files()
    assert "finished already" in finish(folder, "train", "--resume", done.name)
    assert files() == before
