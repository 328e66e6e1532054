"""Memory is taken once: step after step the same, and what only helped to begin is given back."""

import json
import subprocess
import sys

import pytest
from tests.engine.test_equality import engine_for
from tests.tiny import tiny_model
from tests.training.test_memory import documents

from tunesmith.data.batch import collate
from tunesmith.kernels.tensor_memory import bytes_in_use

JOBS = [("lora", 0), ("lora", 2), ("full", 2)]
STEPS = """
import json, os, resource, sys
import torch
from tests.engine.test_checkpointing import engine_for
from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.checkpointing import Checkpointed
from tunesmith.kernels.tensor_memory import bytes_touched
from tunesmith.objectives.token_likelihood import TokenLikelihood

torch.set_num_threads(1)

def steps(technique, checkpointed):
    engine, objective = engine_for("llama", technique), TokenLikelihood()
    engine.checkpoints.choose(Checkpointed(checkpointed))
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 90, (8, 500), generator=draw).tolist()
    batch = collate([Encoded({"text": EncodedStream(tuple(row), (1.0,) * 500)}) for row in ids])
    counts = objective.counts(batch)
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        engine.begin_step(1e-3)
        engine.forward_backward(batch, objective, counts)
        engine.optimizer_step(1e-3)
        yield bytes_touched(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert engine.memory.exact, engine.memory.reason

for job in json.loads(sys.argv[1]):
    if os.fork() == 0:  # a process of its own for each, after one import
        print(json.dumps(list(steps(*job))), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def steps() -> dict[tuple[str, int], list[tuple[int, int]]]:
    """Of each job's steps the highest place that a tensor had, and the page faults."""
    command = [sys.executable, "-c", STEPS, json.dumps(JOBS)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    lines = [line for line in answer.stdout.splitlines() if line.startswith("[")]
    return dict(zip(JOBS, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("job", JOBS)
def test_after_two_steps_nothing_grows_and_no_page_is_faulted_in(job, steps) -> None:
    touched = [size for size, _ in steps[job]]
    assert len(set(touched[2:])) == 1
    pages = touched[-1] / 4096
    assert max(faults for _, faults in steps[job][3:]) < pages / 50


def test_counting_what_a_pass_keeps_keeps_nothing() -> None:
    engine = engine_for(tiny_model("llama"))
    assert engine.memory.exact, engine.memory.reason
    batch = collate(documents([400, 300]))
    engine.held(batch)
    before = bytes_in_use()
    held = engine.held(batch)
    assert sum(held.inside) > 10**6
    assert bytes_in_use() == before
