"""Memory of tensors: what is freed fits the next of its size, and nothing is lost of them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.kernels import native, tensor_memory

SERVED = """
import json, os, sys, torch
from concurrent.futures import ThreadPoolExecutor
from tunesmith.kernels.tensor_memory import bytes_in_use, bytes_touched, serve_tensors
from tunesmith.kernels.token_loss import linear_cross_entropy, token_log_probs
for name, code in json.load(sys.stdin).items():
    if os.fork() == 0:  # a process of its own for each, after one import
        served = serve_tensors(1 << 30, False)
        assert served.done, served.reason
        found = {}
        exec(code, globals())
        print(json.dumps([name, found]), flush=True)
        os._exit(0)
    os.wait()
"""

CODE = {
    # What checkpointing does: of each layer the input stays, all else comes and goes.
    "layers": """
def step():
    kept = []
    for _ in range(20):
        passing = [torch.ones(n << 10) for n in (64, 96, 32, 128)]
        kept.append(torch.ones(64 << 10))
        del passing
    return kept
step()
first = bytes_touched()
for _ in range(5):
    step()
found["grown"], found["first"] = bytes_touched() - first, first
""",
    "joined": """
tensors = [torch.ones(n * 1000) for n in range(5, 200)]
for which in (slice(0, None, 3), slice(0, None, 2)):
    del tensors[which]
found["some"] = bytes_in_use()
tensors.clear()
found["none"] = bytes_in_use()
before = bytes_touched()
whole = torch.ones(before // 4 - 1000)
found["grown"] = bytes_touched() - before
""",
    "numbers": """
a = torch.arange(100_000.0)
view, copy = a[50_000:], a.clone()
numbers = copy.numpy()
a.resize_(200_000)[100_000:] = 7.0
found["same"] = bool((view[:50_000] == copy[50_000:]).all())
found["aligned"] = copy.data_ptr() % 64
del a, copy
found["numpy"] = float(numbers[99_999])
""",
    "room": """
small = torch.ones(10)
found["small"] = bytes_in_use()
large = torch.full(((1 << 30) // 4 + 1,), 2.0)
found["large"], found["value"] = bytes_in_use(), float(large[-1])
del large, small
""",
    "threads": """
def work(seed):
    total = 0.0
    for n in range(1, 60):
        total += float(torch.full((n * 500 + seed,), float(seed)).sum()) / (n * 500 + seed)
    return round(total, 3)
with ThreadPoolExecutor(4) as pool:
    found["sums"] = list(pool.map(work, range(8)))
found["left"] = bytes_in_use()
child = os.fork()
if child == 0:
    os._exit(0 if float(torch.ones(50_000).sum()) == 50_000.0 else 1)
found["child"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
""",
    "loss": """
hidden, weight = torch.randn(40, 8), torch.randn(25_000, 8)
hidden.requires_grad_()
targets, ones = torch.arange(40), torch.ones(40)
linear_cross_entropy(hidden, weight, targets, ones, chunk_rows=10).total.backward()
found["one pass"] = bytes_touched()
token_log_probs(hidden, weight, targets, chunk_rows=10).logprobs_N.sum().backward()
found["two"] = bytes_touched()
""",
}

Told = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def told() -> Told:
    """What each piece of code found, in a process whose tensors are served."""
    command, said = [sys.executable, "-c", SERVED], json.dumps(CODE)
    answer = subprocess.run(command, input=said, capture_output=True, text=True)
    assert len(answer.stdout.splitlines()) == len(CODE), answer.stderr
    return dict(json.loads(line) for line in answer.stdout.splitlines())


def test_blocks_of_a_size_take_each_others_places_while_others_stay(told: Told) -> None:
    live = 4 * 1024 * (20 * 64 + 320)
    assert told["layers"]["grown"] == 0
    assert told["layers"]["first"] < 1.1 * live


def test_everything_is_given_back_and_joined(told: Told) -> None:
    assert told["joined"]["some"] > 0
    assert told["joined"]["none"] == 0
    assert told["joined"]["grown"] <= 0


def test_numbers_are_kept_whole_when_storages_grow_are_copied_and_outlive_tensors(
    told: Told,
) -> None:
    assert told["numbers"] == {"same": True, "aligned": 0, "numpy": 99_999.0}


def test_what_finds_no_room_and_what_is_small_goes_to_pytorchs_allocator(told: Told) -> None:
    assert told["room"] == {"small": 0, "large": 0, "value": 2.0}


def test_threads_and_forked_processes_are_served_alike(told: Told) -> None:
    assert told["threads"]["sums"] == [59.0 * seed for seed in range(8)]
    assert (told["threads"]["left"], told["threads"]["child"]) == (0, 0)


def test_the_loss_holds_one_chunk_of_logits_at_a_time(told: Told) -> None:
    chunk, weight = 4 * 10 * 25_000, 4 * 8 * 25_000
    assert weight + chunk <= told["loss"]["one pass"] < weight + 1.5 * chunk
    assert told["loss"]["two"] < weight + 1.5 * chunk


def test_without_a_compiler_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    served = tensor_memory.serve_tensors.__wrapped__(1 << 20, False)
    assert served == tensor_memory.Served(False, "no C++ compiler was found")


def test_another_pytorch_has_a_library_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    for version in ("one", "another"):
        language = native._LANGUAGES[".cpp"]
        monkeypatch.setitem(native._LANGUAGES, ".cpp", replace(language, depends=version))
        assert native.built(tensor_memory.SOURCE).library is not None
    assert len(list((tmp_path / "kernels").iterdir())) == 2
