"""Generation by llama.cpp: `llama_cpp.py JOB OUT GGUF TOGETHER`, where `xllamacpp` is installed.

All prompts are one request to its server, which this process runs; it works at `TOGETHER` of them
at a time (continuous batching), on all cores, greedily. Reports what `benchmarks/generation.py`
reads.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import xllamacpp
from report import Report


def main() -> None:
    """Load, answer, and write the answers' token ids."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out, together = Path(sys.argv[2]), int(sys.argv[4])
    report = Report(out)
    longest = max(map(len, job["prompts"])) + job["limit"]
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[3]
    params.n_parallel = together
    params.n_ctx = together * longest
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count()
    params.warmup = False
    params.verbosity = 0
    server = xllamacpp.Server(params)
    request = {
        "prompt": job["prompts"],
        "n_predict": job["limit"],
        "temperature": 0.0,
        "ignore_eos": not job["stop_ids"],
        "return_tokens": True,
    }
    began = time.monotonic()
    found = _ask(f"{server.listening_address}/completion", request)
    seconds = time.monotonic() - began
    found.sort(key=lambda one: one["index"])
    answers = [_until(one["tokens"], job["stop_ids"]) for one in found]
    tokens = sum(map(len, answers))
    report.figure("generated_tokens", tokens)
    report.figure("generating_seconds", seconds)
    report.figure("generated_per_second", tokens / seconds)
    (out / "answers.json").write_text(json.dumps(answers))


def _ask(address: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    body = json.dumps(request).encode()
    sent = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(sent) as answer:
        answers: list[dict[str, Any]] = json.load(answer)
    return answers


def _until(ids: list[int], stop_ids: list[int]) -> list[int]:
    ends = [place for place, token in enumerate(ids) if token in stop_ids]
    return ids[: ends[0]] if ends else ids


if __name__ == "__main__":
    main()
