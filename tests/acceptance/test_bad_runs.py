"""What goes wrong with a run: a disk that is full, a place that cannot be written, a damaged file.

Each message says what, where and what to do; exit code 1 where it failed at run time, 2 where what
was asked for is wrong. What was saved before stays, and a run that was stopped can go on.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tests.acceptance.jobs import ANSWERS, CLASSES, lines, recipe
from tests.interrupting import stopping_at

from tunesmith.cli import main
from tunesmith.errors import RunError
from tunesmith.runs import run as runs

TRAINING = "{max_steps: 4, batch_size: 4, checkpoint_every: 1, keep_checkpoints: 3}"
FULL_DISK = OSError(28, os.strerror(28))


class _PowerError(RunError):
    """Power failed."""


def _job(folder: Path, model: Path) -> None:
    (folder / "train.jsonl").write_text(lines(ANSWERS))
    (folder / "recipe.yaml").write_text(recipe(model=model, training=TRAINING))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], Path]) -> Path:
    """A folder with a finished run, `whole`, and one that stopped after two steps, `begun`."""
    folder = tmp_path_factory.mktemp("made")
    _job(folder, tiny("llama"))
    words = ["train", str(folder / "recipe.yaml"), "--runs-dir", str(folder / "runs"), "--name"]
    assert main.run([*words, "whole"]) == 0
    with stopping_at(3, _PowerError("Power failed.")):
        assert main.run([*words, "begun"]) == 1
    return folder


@pytest.fixture
def job(here: Path, made: Path) -> Iterator[Path]:
    """The current folder, with a recipe, copies of both runs, and their data as it was."""
    shutil.copytree(made, here, dirs_exist_ok=True)
    data = made / "train.jsonl"
    as_it_was = data.read_text()
    yield here
    data.write_text(as_it_was)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file under a folder but its locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def process(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunesmith", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,
    )


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def refused(said, code: int, *parts: str) -> None:
    """One message with these parts, this exit code, no traceback."""
    assert said.code == code, said.err
    [message] = [line for line in said.err.splitlines() if line.startswith("error: ")]
    for part in parts:
        assert part in message
    assert "Something went wrong inside" not in message
    assert "Traceback" not in said.err


# Names of runs


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("whole", "runs/whole: There is already a run called 'whole'", "--resume runs/whole"),
        ("../away", "--name: A run cannot be called '../away'", "without slashes"),
        ("..", "A run cannot be called '..'", "without slashes"),
        ("", "A run cannot be called ''", "without slashes"),
        ("notes", "something of that name already, which is no run", "Choose another --name"),
    ],
)
def test_a_name_that_cannot_be_had_is_refused(job, command, name, what, fix) -> None:
    (job / "runs" / "notes").mkdir()
    before = snapshot(job)
    refused(command("train", "recipe.yaml", "--name", name), 2, what, fix)
    assert snapshot(job) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--resume", "whol"),
        ("predict", "whol", "hello"),
        ("evaluate", "whol"),
        ("report", "whol"),
        ("chat", "whol"),
    ],
)
def test_a_run_that_does_not_exist_suggests_the_nearest(job, command, arguments) -> None:
    refused(command(*arguments), 2, "There is no run called 'whol' here", "Did you mean 'whole'?")


def test_where_no_run_is_yet_it_says_so(here, command) -> None:
    refused(command("train", "--resume", "x"), 2, "no run called 'x'", "No run lies in runs/ yet")


# Runs that cannot go on


def _other_data(run: Path, made: Path) -> None:
    (made / "train.jsonl").write_text(lines(ANSWERS[::-1]))


def _no_data(run: Path, made: Path) -> None:
    (made / "train.jsonl").unlink()


def _other_model(run: Path, made: Path) -> None:
    shutil.copytree(_model_of(run), run.parent.parent / "other")
    other = run.parent.parent / "other" / "model.safetensors"
    data = bytearray(other.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    edit(run / "recipe.yaml", str(_model_of(run)), str(other.parent))


def _model_of(run: Path) -> Path:
    first = (run / "recipe.yaml").read_text().splitlines()[0]
    return Path(first.removeprefix("model: "))


def _damaged_checkpoint(run: Path, made: Path) -> None:
    file = run / "checkpoints" / "step-000002" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")


def _lost_checkpoint(run: Path, made: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step-000002")


def _other_version(run: Path, made: Path) -> None:
    edit(run / "record.json", '"schema_version": 1', '"schema_version": 99')


def _broken_record(run: Path, made: Path) -> None:
    (run / "record.json").write_text("{")


def _damaged_events(run: Path, made: Path) -> None:
    (run / "events.jsonl").write_text("\0\0\0\0\n")


def _other_technique(run: Path, made: Path) -> None:
    edit(run / "recipe.yaml", "rank: 2", "rank: 3")


def _lacks(*keys: str) -> Callable[[Path, Path], None]:
    """What an older version left: `record.json` without a key."""

    def spoil(run: Path, made: Path) -> None:
        record = json.loads((run / "record.json").read_text())
        inside = record
        for key in keys[:-1]:
            inside = inside[key]
        del inside[keys[-1]]
        (run / "record.json").write_text(json.dumps(record))

    return spoil


def _of_another_version(change: Callable[[Path], None]) -> Callable[[Path, Path], None]:
    """A whole checkpoint, whose sums are right, of a version that wrote other things."""

    def spoil(run: Path, made: Path) -> None:
        folder = run / "checkpoints" / "step-000002"
        change(folder)
        files = [file for file in sorted(folder.iterdir()) if file.name != "SHA256SUMS"]
        sums = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files]
        (folder / "SHA256SUMS").write_text("".join(sums))

    return spoil


def _without_waiting(checkpoint: Path) -> None:
    progress = json.loads((checkpoint / "progress.json").read_text())
    del progress["waited"]
    (checkpoint / "progress.json").write_text(json.dumps(progress))


def _with_a_colour(checkpoint: Path) -> None:
    progress = json.loads((checkpoint / "progress.json").read_text())
    (checkpoint / "progress.json").write_text(json.dumps(progress | {"colour": "red"}))


def _without(part: str) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        file = checkpoint / "state.safetensors"
        state = load_file(file)
        del state[next(name for name in sorted(state) if part in name)]
        save_file(state, file)

    return change


def _old(what: str) -> tuple[int, str, str]:
    return 2, f"{what}, which this version of Tunesmith needs: an older one", "Start a new run, or"


REASONS = {
    "other data": (_other_data, 2, "has changed (train, test)", "Put the old files back"),
    "no data": (_no_data, 2, "There is no file", "data.train"),
    "other model": (_other_model, 2, "has changed (model", "Put the old files back"),
    "other technique": (_other_technique, 2, "changed (the initial weights)", "Put the old"),
    "damaged checkpoint": (
        _damaged_checkpoint, 1, "state.safetensors is not what was written", "Name an earlier one",
    ),
    "lost checkpoint": (_lost_checkpoint, 1, "checkpoint cannot be read", "Name an earlier one"),
    "other version": (
        _other_version, 2, "schema version 99; this Tunesmith reads 1", "record.json",
    ),
    "broken record": (_broken_record, 2, "runs/begun/record.json: Not readable as JSON", ""),
    "record without data": (_lacks("inputs"), *_old("record.json: It lacks 'inputs'")),
    "record without layers": (_lacks("checkpointing", "offload"), *_old("It lacks 'offload'")),
    "record without rates": (_lacks("roof", "busy"), *_old("record.json: It lacks 'busy'")),
    "older progress": (
        _of_another_version(_without_waiting), *_old("progress.json: It lacks 'waited'"),
    ),
    "newer progress": (
        _of_another_version(_with_a_colour), 2, "'colour', which this version", "Start a new run",
    ),
    "moments without a part": (
        _of_another_version(_without("/exp_avg_sq")),
        2, "state.safetensors: It lacks 'optimizer/", "an older one",
    ),
    "weights without one": (
        _of_another_version(_without("weights/")),
        2, "state.safetensors: It lacks 'weights/", "an older one",
    ),
    "damaged events": (
        _damaged_events, 1, "runs/begun/events.jsonl: A line is damaged", "Remove that line",
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
def test_a_run_that_cannot_go_on_says_why_and_stays_as_it_was(job, made, command, reason) -> None:
    spoil, code, what, fix = REASONS[reason]
    spoil(job / "runs" / "begun", made)
    before = snapshot(job)
    refused(command("train", "--resume", "begun"), code, what, fix)
    assert snapshot(job) == before


def test_a_damaged_checkpoint_is_left_for_an_earlier_one_as_the_message_says(job, command) -> None:
    _damaged_checkpoint(job / "runs" / "begun", job)
    (job / "runs" / "begun" / "checkpoints" / "latest").write_text("step-000001\n")
    said = command("train", "--resume", "begun")
    assert said.code == 0, said.err
    assert "Going on after step 1." in said.err


def test_a_run_that_another_process_is_at_work_on_is_refused(job, command) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import filelock, sys; l = filelock.FileLock(sys.argv[1]); l.acquire();"
            "print('held', flush=True); sys.stdin.read()",
            str(job / "runs" / "begun" / ".lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        said = command("train", "--resume", "begun", "--json")
        holder.stdin.close()
    assert said.code == 1
    assert said.document["error"]["what"] == "Another process is at work on this run."
    assert said.document["error"]["where"] == "runs/begun"


# Using a run that is not finished, or damaged


@pytest.mark.parametrize(
    "arguments", [("predict", "begun", "hello"), ("evaluate", "begun"), ("report", "begun")]
)
def test_an_unfinished_run_is_not_used(job, command, arguments) -> None:
    before = snapshot(job)
    advice = "tunesmith train --resume runs/begun"
    refused(command(*arguments), 2, "it has not finished", advice)
    assert snapshot(job) == before


def test_nobody_chats_with_an_unfinished_run(job, command, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    advice = "tunesmith train --resume runs/begun"
    refused(command("chat", "begun"), 2, "it has not finished", advice)


def test_a_finished_run_whose_model_is_gone_says_so(job, command) -> None:
    shutil.rmtree(job / "runs" / "whole" / "model")
    refused(command("predict", "whole", "hello"), 2, "runs/whole")


def test_a_finished_run_whose_figures_are_damaged_says_so(job, command) -> None:
    (job / "runs/whole/evaluation/metrics.json").write_text("{")
    refused(command("report", "whole"), 2, "evaluation/metrics.json: It is damaged", "a copy")


@pytest.mark.parametrize("key", ["packed", "dtype"])
def test_a_finished_run_whose_record_lacks_something_says_so(job, command, key) -> None:
    _lacks(key)(job / "runs" / "whole", job)
    refused(command("predict", "whole", "hello"), 2, f"record.json: It lacks '{key}'", "older one")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"state": {', '"stated": {', "task.json: It lacks 'state'"),
        ('"max_new_tokens":', '"most_tokens":', "task.json: Another version of Tunesmith wrote it"),
    ],
)
def test_a_finished_run_whose_task_is_anothers_says_so(job, command, old, new, what) -> None:
    edit(job / "runs/whole/model/task.json", old, new)
    refused(command("predict", "whole", "hello"), 2, what, "record.json names")


def test_figures_that_are_gone_are_made_anew_from_the_scores(job, command) -> None:
    figures = job / "runs/whole/evaluation/metrics.json"
    as_they_were = figures.read_text()
    figures.unlink()
    refused(command("report", "whole"), 2, "metrics.json")
    assert command("train", "--resume", "whole").code == 0
    assert figures.read_text() == as_they_were


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("none.jsonl", None, "none.jsonl: This file does not exist"),
        ("empty.jsonl", "", "empty.jsonl: The file is empty"),
        ("class.jsonl", lines(CLASSES), "The records are text or text_label"),
    ],
)
def test_records_that_do_not_fit_are_refused_by_evaluate(job, command, name, content, what) -> None:
    if content is not None:
        (job / name).write_text(content)
    before = snapshot(job)
    refused(command("evaluate", "whole", "--data", name), 2, what)
    assert snapshot(job) == before


def test_an_input_that_does_not_fit_the_context_is_refused(job, command) -> None:
    said = command("predict", "whole", "fine", "word " * 200)
    refused(said, 2, "input 2: The prompt has", "more than the model's context of 128", "Shorten")


# A disk that is full, a place that cannot be written


def _full_for_checkpoints(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:  # as its writer says it
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    patch.setattr("tunesmith.training.checkpoints.save_file", fail)


def _full_for_events(patch: pytest.MonkeyPatch) -> None:
    from tunesmith.training.events import Events

    begin = Events.__init__

    def on_a_full_device(events: Events, *given, **options) -> None:
        begin(events, *given, **options)
        events.close()
        events._file = open("/dev/full", "a")  # noqa: SIM115 - as the class does

    patch.setattr(Events, "__init__", on_a_full_device)


def _full_for_naming_the_latest(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise FULL_DISK

    patch.setattr("tunesmith.training.checkpoints.Checkpoints._name_latest", fail)


def _full_for_the_model(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FULL_DISK

    patch.setattr("peft.PeftModel.save_pretrained", fail)


def _full_for_predictions(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise FULL_DISK

    patch.setattr("pyarrow.parquet.write_table", fail)


def _full_for_json(patch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def fail(number: int) -> None:
        if ".summary.json" in os.readlink(f"/proc/self/fd/{number}"):
            raise FULL_DISK
        flush(number)

    patch.setattr("tunesmith.runs.folder.os.fsync", fail)


STAGES = {
    "checkpoints": _full_for_checkpoints,
    "events": _full_for_events,
    "the name of the latest checkpoint": _full_for_naming_the_latest,
    "predictions": _full_for_predictions,
    "the model": _full_for_the_model,
    "the summary": _full_for_json,
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_loses_nothing_and_the_run_goes_on(job, command, monkeypatch, stage) -> None:
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)  # it takes long
    with monkeypatch.context() as patch:
        STAGES[stage](patch)
        refused(
            command("train", "recipe.yaml", "--name", "full"), 1, "No space left on device",
            "Free some space or set the permissions, then go on with:"
            " tunesmith train --resume runs/full",
        )  # fmt: skip
    left = [path.name for path in (job / "runs" / "full").rglob("*") if path.is_file()]
    assert not [name for name in left if name.endswith((".part", ".tmp"))]
    assert command("train", "--resume", "full").code == 0
    whole, full = (runs.Run(runs.RunFolder(job / "runs" / name)) for name in ("whole", "full"))
    assert full.metrics == whole.metrics


def test_a_full_disk_for_the_report_leaves_a_finished_run(job, command, monkeypatch) -> None:
    write = Path.write_text

    def fail(path: Path, *given, **options) -> int:
        if "report.html" in path.name:
            raise FULL_DISK
        return write(path, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fail)
        said = command("train", "recipe.yaml", "--name", "full")
    refused(said, 1, "report could not be written: No space left", "tunesmith report runs/full")
    assert command("predict", "full", "hello").code == 0
    assert command("report", "full").code == 0
    assert (job / "runs" / "full" / "report.html").is_file()


def test_a_place_for_runs_that_is_a_file_is_refused(job, command) -> None:
    (job / "file").write_text("x")
    before = snapshot(job)
    said = command("train", "recipe.yaml", "--runs-dir", "file/runs")
    refused(said, 1, "file/runs", "Could not write: Not a directory", "choose a folder")
    assert snapshot(job) == before


def _as_an_ordinary_user() -> None:
    """Let root obey permissions as everyone does: drop what overrides them (a child, before exec).

    PR_CAPBSET_DROP (24) of CAP_DAC_OVERRIDE (1); not permitted, nor needed, for an ordinary user.
    """
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


@pytest.mark.slow
def test_a_place_that_one_may_not_write_is_one_message(job) -> None:
    (job / "shut").mkdir(mode=0o555)
    done = process(
        "train", "recipe.yaml", "--runs-dir", "shut", "--name", "x", "--json",
        cwd=job, stdout=subprocess.PIPE, preexec_fn=_as_an_ordinary_user,
    )  # fmt: skip
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["what"] == "Could not write: Permission denied."
    assert error["where"] == "shut/x"
    assert "choose a folder that you may write" in error["fix"]
    assert list((job / "shut").iterdir()) == []


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def forked(prepare: Callable[[], None], *arguments: str) -> int:
    """Run a command in a child of this process, which is prepared first; return its exit code."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            prepare()
            code = main.run(arguments)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_write_that_the_system_refuses_stops_the_run_and_it_goes_on(job, command, capfd) -> None:
    words = ("train", "recipe.yaml", "--name", "x", "--set", "technique=full")
    assert forked(_small_files, *words) == 1
    said = capfd.readouterr().err
    assert "error: runs/x/checkpoints/step-000001" in said
    assert "Could not write: File too large." in said
    assert "Traceback" not in said
    assert list((job / "runs/x/checkpoints").iterdir()) == []
    assert command("train", "--resume", "x").code == 0


@pytest.mark.slow
def test_a_full_standard_output_is_told_and_the_run_is_kept(job, command) -> None:
    with open("/dev/full", "w") as full:
        done = process("train", "recipe.yaml", "--name", "x", "--json", cwd=job, stdout=full)
    assert done.returncode == 1
    assert "error: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr
    assert command("predict", "x", "hello").code == 0
