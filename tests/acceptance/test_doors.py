"""The three doors: the loop of one's own in the documents runs, and learns."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.real_model
def test_the_loop_of_the_documents_runs_and_its_loss_falls(smollm2_path):
    done = subprocess.run(
        [sys.executable, "examples/custom_loop/loop.py", "64"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", done.stdout)]
    assert len(losses) == 8
    assert sum(losses[-3:]) < sum(losses[:3])


def test_the_loop_of_the_documents_is_25_lines_at_most():
    code = (ROOT / "examples/custom_loop/loop.py").read_text().splitlines()
    assert len([line for line in code if line.strip()]) <= 25
