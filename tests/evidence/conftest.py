"""Builds the directory of a finished run without training anything.

The records are those of `examples/interface_translation`; the figures are made up, but hang
together as those of a real run do. `fake_run(...)` takes changes to any file.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

EXAMPLE = Path(__file__).parents[2] / "examples" / "interface_translation"

Build = Callable[..., Path]


@pytest.fixture
def fake_run(tmp_path: Path) -> Build:
    """Return a function that builds a run directory.

    Args of that function: `metrics`, `summary`: changes to those files, merged deep; `examples`:
    the rows of the predictions, `events`: the lines of the events file, in place of made-up ones.
    """

    def build(**changes: Any) -> Path:
        return build_run(tmp_path / "runs" / "interface-translation", **changes)

    return build


def build_run(
    run_dir: Path,
    *,
    metrics: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
    examples: list[dict[str, Any]] | None = None,
    events: list[dict[str, Any]] | None = None,
) -> Path:
    """Write the files of a finished run to `run_dir`."""
    evaluation = run_dir / "evaluation"
    evaluation.mkdir(parents=True)
    (run_dir / "recipe.yaml").write_text((EXAMPLE / "recipe.yaml").read_text())
    lines = made_up_events() if events is None else events
    (run_dir / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _write_json(evaluation / "metrics.json", _merged(METRICS, metrics or {}))
    _write_json(run_dir / "summary.json", _merged(SUMMARY, summary or {}))
    rows = made_up_examples() if examples is None else examples
    parquet.write_table(pa.Table.from_pylist(rows), evaluation / "predictions.parquet")
    return run_dir


def made_up_events(steps: int = 46) -> list[dict[str, Any]]:
    """Return the events of a run that goes well, validated now and then."""
    draw = random.Random(0)
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        share = step / steps
        loss = 1.45 + 1.75 * math.exp(-3.2 * share) + draw.gauss(0, 0.09)
        lines.append(
            {
                "step": step,
                "epoch": share,
                "loss": loss,
                "terms": {"nll": loss},
                "learning_rate": 0.001 * min(1, step / 3) * (1 + math.cos(math.pi * share)) / 2,
                "gradient_norm": 0.6 + 1.6 * math.exp(-4 * share) + abs(draw.gauss(0, 0.15)),
                "tokens": 512 * step,
                "trained_tokens": 123 * step,
                "seconds": 2.2 * step,
                "tokens_per_second": 236 + draw.gauss(0, 9),
                "memory_bytes": 1_480_000_000,
            }
        )
        if step % 15 == 0 or step == steps:
            figure = 1.52 + 1.7 * math.exp(-3.1 * share)
            lines.append({"step": step, "validation": {"log_likelihood": -figure}})
    return lines


def made_up_examples() -> list[dict[str, Any]]:
    """Return predictions for the test records of the example; 24 of them answered for real."""
    draw = random.Random(1)
    rows = []
    for index, line in enumerate((EXAMPLE / "test.jsonl").read_text().splitlines()):
        record = json.loads(line)
        answered = index < 24
        right = draw.random() < 0.2
        words = record["output"].split()
        guess = record["output"] if right else " ".join([*words[: max(1, len(words) - 2)], "page"])
        rows.append(
            {
                "index": index,
                "origin": f"test.jsonl:{index + 1}",
                "prompt": f"{record['instruction']}\n\n{record['input']}",
                "reference": record["output"],
                "output_before": f'The text "{record["input"]}" in French.' if answered else None,
                "output_after": guess if answered else None,
                "change": draw.gauss(0.85, 0.6),
            }
        )
    return rows


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merged(old, value) if both else value
    return merged


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def _row(before: float, after: float, interval: tuple[float, float], **more: Any) -> dict[str, Any]:
    return {
        "before": before,
        "after": after,
        "difference": after - before,
        "interval": list(interval),
        "p_value": 0.0001,
        "p_holm": 0.0004,
        "detectable": 0.13,
        "n": 160,
        "unit": "",
        "description": "",
        "higher_is_better": True,
        "generated": False,
        "better": True,
        **more,
    }


METRICS: dict[str, Any] = {
    "schema_version": 1,
    "verdict": "improved",
    "primary": "log_likelihood",
    "confidence": 0.95,
    "resamples": 10000,
    "metrics": {
        "log_likelihood": _row(
            -3.214,
            -1.628,
            (1.493, 1.679),
            unit="nats per token",
            description="mean logarithm of the probability of each token of the right answer",
        ),
        "perplexity": _row(
            24.88,
            5.094,
            (-22.71, -17.13),
            higher_is_better=False,
            detectable=3.1,
            description="between how many equally likely tokens the model seems to choose",
        ),
        "exact_match": _row(
            0.0,
            0.0833,
            (0.0, 0.2083),
            n=24,
            generated=True,
            p_value=0.25,
            p_holm=0.5,
            better=None,
            detectable=0.26,
            description="share of the generated answers that equal the reference",
        ),
        "rouge_l": _row(
            0.1042,
            0.3418,
            (0.151, 0.327),
            n=24,
            generated=True,
            detectable=0.14,
            description="how much of answer and reference is one common sequence of words",
        ),
        "stops_by_itself": _row(
            0.4583,
            1.0,
            (0.333, 0.75),
            n=24,
            generated=True,
            detectable=0.26,
            description="share of the generated answers that end on a stop token",
        ),
    },
    "noise": {"metric": "log_likelihood", "difference": 0.0, "records": 41},
    "probe": {
        "name": "encyclopaedia",
        "before": 21.43,
        "after": 22.07,
        "tokens": 6120,
        "unit": "perplexity",
        "interval": [0.51, 0.77],
        "worse": True,
    },
}

SUMMARY: dict[str, Any] = {
    "schema_version": 1,
    "run": "interface-translation",
    "created": "2026-11-20T14:03:11Z",
    "tunesmith": "0.1.0",
    "model": {
        "name": "smollm2-135m-instruct",
        "fingerprint": "9f3ac1d27b7e4a11c0d5e6f7a8b9c0d1e2f3a4b5c6d7e8f9a0b1c2d3e4f5a6b7",
        "family": "llama",
        "kind": "decoder",
        "parameters": 134_515_008,
    },
    "task": "instruct",
    "technique": "lora",
    "data": {
        "train": {"file": "train.jsonl", "records": 366, "tokens": 23012, "trained_tokens": 5548},
        "validation": {"file": "train.jsonl", "records": 41, "tokens": 2550, "trained_tokens": 613},
        "test": {"file": "test.jsonl", "records": 160, "tokens": 9786, "trained_tokens": 2231},
        "format": "alpaca",
        "cut": 0,
        "dropped": 0,
        "classes": None,
        "warnings": [],
    },
    "steps": 46,
    "tokens": 23012,
    "seconds": 97.4,
    "tokens_per_second": 236.2,
    "predicted_memory_bytes": 1_390_000_000,
    "peak_memory_bytes": 1_480_000_000,
    "trainable_parameters": 4_884_480,
    "hardware": {"cpu": "A processor with two cores", "cores": 2, "features": ["avx512f"]},
    "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
    "stopped_early": False,
    "best_step": None,
}
