"""Every failure becomes one message and an exit code, and never a traceback."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.errors import DataError, ModelError, RecipeError, RunError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RecipeError("Wrong."), 2),
        (DataError("Wrong."), 2),
        (ModelError("Wrong."), 2),
        (RunError("Wrong."), 1),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 1),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 1),
        (MemoryError(), 1),
        (ValueError("a defect"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_the_exit_code_tells_the_kind_of_failure(api, command, error, code) -> None:
    api.fails = error
    said = command("train", "r.yaml")
    assert said.code == code
    assert said.err.count("error: ") == 1
    assert "Traceback" not in said.err


def test_an_error_says_where_what_and_what_to_do(api, command) -> None:
    api.fails = DataError("It is broken.", where="a[1].jsonl:17", fix="Mend it.")
    assert command("train", "r.yaml").err.endswith("error: a[1].jsonl:17: It is broken. Mend it.\n")


def test_a_full_disk_is_said_with_its_place(api, command) -> None:
    api.fails = OSError(errno.ENOSPC, "No space left on device", "runs/x")
    assert "runs/x: No space left on device. Free some space" in command("train", "r.yaml").err


def test_an_interrupted_run_says_how_to_go_on(api, command) -> None:
    api.fails = KeyboardInterrupt("stopped after step 3 of 9")
    api.fails.run = "runs/demo-1"
    err = command("train", "r.yaml").err
    assert "Stopped after step 3 of 9. Go on with: tunesmith train --resume runs/demo-1" in err


def test_a_defect_is_one_line_and_its_traceback_a_file(api, command) -> None:
    api.fails = ZeroDivisionError("far\ndown")
    err = command("train", "r.yaml").err
    [message] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "ZeroDivisionError: far down" in message
    log = Path(re.search(r"in (\S+\.log);", message)[1])
    assert "Traceback (most recent call last)" in log.read_text()
    log.unlink()


def test_memory_that_ran_out_on_a_device_is_no_defect(api, command) -> None:
    api.fails = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")
    assert "training.tokens_per_batch" in command("train", "r.yaml").err


def _process(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from tunesmith.cli.main import main; main()", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **options,
    )


def test_a_full_standard_output_is_one_message_and_exit_code_1() -> None:
    with open("/dev/full", "w") as full:
        done = _process("recipe", "schema", stdout=full)
    assert done.returncode == 1
    assert done.stderr == (
        "error: No space left on device. Free some space, then run the same command again.\n"
    )


def test_a_reader_that_leaves_early_gets_no_message() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = _process("recipe", "schema", stdout=pipe)
    assert done.returncode == 1
    assert done.stderr == ""
