"""Generation is compared on the same prompts: every side answers them all, and ends where told."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from benchmarks.f16_gguf import write
from benchmarks.generation import REFERENCE, SIDES, TITLES, Job, rounds, run_side, summarise, until
from benchmarks.peers.measure import read_marks
from benchmarks.tables import generation_table
from tests.tiny import tiny_model_folder

PROMPTS = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27], [31, 32, 33, 34, 35]]


def answers(key: str, job: Job, out: Path) -> list[list[int]]:
    out.mkdir()
    run_side(key, job, out)
    found: list[list[int]] = json.loads((out / "answers.json").read_text())
    figures = {mark["name"]: mark["value"] for mark in read_marks(out) if "name" in mark}
    assert figures["generated_tokens"] == sum(map(len, found))
    return found


@pytest.mark.parametrize("key", [key for key in SIDES if key != "continuous"])
def test_every_side_gives_the_same_answers(tmp_path: Path, key: str) -> None:
    folder = str(tiny_model_folder(tmp_path / "model"))
    fixed = Job(folder, PROMPTS, 6, [])
    expected = answers(REFERENCE, fixed, tmp_path / "reference")
    assert [len(answer) for answer in expected] == [6, 6, 6]
    assert answers(key, fixed, tmp_path / "fixed") == expected
    stop = expected[0][3]
    ending = Job(folder, PROMPTS, 6, [stop])
    assert answers(key, ending, tmp_path / "ending") == [until(e, [stop]) for e in expected]


def test_an_answer_ends_before_its_stop_token() -> None:
    assert until([4, 5, 2, 0, 0], [2]) == [4, 5]
    assert until([4, 5], [2]) == [4, 5]


def outcome(side: str, number: int, speed: float, **changes: Any) -> dict[str, Any]:
    return {
        "form": "fixed",
        "side": side,
        "title": TITLES[side],
        "round": number,
        "status": "finished",
        "generated_per_second": speed,
        "generated_tokens": 96,
        "seconds_to_finished": 1000 / speed,
        "peak_memory_bytes": 2**30,
        "same_texts": 3,
        **changes,
    }


def test_ratios_are_taken_within_a_round() -> None:
    made = [
        outcome("tunesmith", 0, 100.0),
        outcome("generate", 0, 50.0),
        outcome("tunesmith", 1, 40.0),
        outcome("generate", 1, 10.0),
        {**outcome("continuous", 0, 1.0), "status": "failed", "error": "Traceback\nno"},
        {**outcome("continuous", 1, 1.0), "status": "not repeated"},
    ]
    ours, theirs, failed = summarise(made)
    assert "speed_ratio" not in ours
    assert theirs["speed_ratio"] == {"median": 3.0, "least": 2.0, "most": 4.0}
    assert failed["status"] == "failed"
    work = {"model": "m", "texts": 3, "prompt_tokens": 15, "limit": 32, "together": 16}
    hardware = {"cpu": "A processor", "threads": 2, "features": ["avx512f"], "gpu": None}
    text = generation_table(
        {
            "summary": [ours, theirs, failed],
            "work": work,
            "hardware": hardware,
            "date": "2026-11-21",
            "command": "python -m benchmarks.generation",
        }
    )
    assert "| transformers `generate` | 30 (10–50) |" in text
    assert "3.00 (2.00–4.00) ×" in text
    assert "| 3 of 3 |" in text
    assert "| failed |" in text


@pytest.mark.slow
def test_sides_take_turns_and_one_that_fails_is_not_run_again(tmp_path: Path) -> None:
    job = Job(str(tiny_model_folder(tmp_path / "model")), PROMPTS, 4, [])
    missing = Job(str(tmp_path / "nothing"), PROMPTS, 4, [])
    for name, each in (("good", job), ("bad", missing)):
        (tmp_path / f"{name}.json").write_text(json.dumps(asdict(each)))
    keys = ["tunesmith", "generate"]
    done = rounds("fixed", keys, tmp_path / "good.json", tmp_path / "a", 1, 120)
    assert [o["side"] for o in done] == keys
    assert [o["same_texts"] for o in done] == [3, 3]
    gone = rounds("fixed", keys[:1], tmp_path / "bad.json", tmp_path / "b", 2, 120)
    assert [o["status"] for o in gone] == ["failed", "not repeated"]


def test_expanding_a_gguf_file_keeps_its_tensors_and_what_it_says(tmp_path: Path) -> None:
    source, out = tmp_path / "q8.gguf", tmp_path / "f16.gguf"
    values = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(source, "llama")
    writer.add_context_length(512)
    writer.add_token_list(["a", "b"])
    quantised = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("wide", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("norm", values[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    write(source, out)

    reader = gguf.GGUFReader(out)
    wide, norm = reader.tensors
    assert wide.tensor_type == gguf.GGMLQuantizationType.F16
    expanded = gguf.dequantize(quantised, gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(wide.data, expanded.astype(np.float16))
    assert np.array_equal(norm.data, values[0])
    assert reader.get_field("llama.context_length").contents() == 512
    assert reader.get_field("tokenizer.ggml.tokens").contents() == ["a", "b"]
