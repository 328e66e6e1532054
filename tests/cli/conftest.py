"""A stand-in for `tunesmith.api`: commands are tested without torch and without training."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.roofline.roofline import (
    Bandwidth,
    PageFault,
    ProductRate,
    Rate,
    Roofline,
    Surroundings,
)
from tunesmith.tasks.base import Prediction

METRICS = {
    "schema_version": 1,
    "verdict": "improved",
    "primary": "log_likelihood",
    "confidence": 0.95,
    "resamples": 1000,
    "metrics": {
        "log_likelihood": {
            "before": -2.5,
            "after": -1.5,
            "difference": 1.0,
            "interval": [0.5, 1.5],
            "p_value": 0.001,
            "p_holm": 0.001,
            "detectable": 0.7,
            "n": 100,
            "unit": "nats per token",
            "description": "mean log-likelihood",
            "higher_is_better": True,
        },
        "exact_match": {
            "before": 0.1,
            "after": 0.2,
            "difference": 0.1,
            "interval": [-0.1, 0.3],
            "p_value": 0.3,
            "p_holm": 0.3,
            "detectable": None,
            "n": 32,
            "unit": "",
            "description": "answers that are exactly right",
            "higher_is_better": True,
        },
    },
}
SUMMARY = {
    "task": "instruct",
    "tokens": 12345,
    "seconds": 10.0,
    "tokens_per_second": 1234.5,
    "trainable_parameters": 1000,
    "peak_memory_bytes": 2**30,
}


@dataclass
class FakeRun:
    """A finished run that answers by saying who it is and what was said last."""

    path: Path
    metrics: dict[str, Any] = field(default_factory=lambda: METRICS)
    summary: dict[str, Any] = field(default_factory=lambda: SUMMARY)
    heard: list[Any] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return str(self.metrics["verdict"])

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def of(self, member: str | None) -> FakeRun:
        return self

    def predict(self, inputs: Any, *, who: str = "tuned") -> list[Any]:
        self.heard = list(inputs)
        return [Prediction(f"answer to {given}") for given in self.heard]

    def stream(
        self, messages: Any, *, who: str = "tuned", temperature: float = 0.0
    ) -> Iterator[str]:
        self.heard.append((who, messages, temperature))
        yield who
        yield ": "
        yield f"{len(messages)} {messages[-1]['content']}"


class FakeApi(ModuleType):
    """What commands call; `calls` remembers it, `fails` is raised by the next call."""

    def __init__(self, folder: Path) -> None:
        super().__init__("tunesmith.api")
        self.run = FakeRun(folder / "runs" / "demo-1")
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.fails: BaseException | None = None

    def _called(self, name: str, given: Any, options: dict[str, Any]) -> None:
        print("a library prints")  # noqa: T201  # as libraries do, from Python and from C
        os.write(1, b"a C library prints\n")
        options.pop("console", None)
        self.calls.append((name, given, options))
        if self.fails is not None:
            raise self.fails

    def train(self, recipe: Any, **options: Any) -> FakeRun:
        self._called("train", recipe, options)
        return self.run

    def resume(self, run: Any, **options: Any) -> FakeRun:
        self._called("resume", run, options)
        return self.run

    def open_run(self, run: Any, **options: Any) -> FakeRun:
        self._called("open_run", run, options)
        return self.run

    def evaluate(self, run: Any, data: Any, **options: Any) -> Any:
        self._called("evaluate", data, options)
        return SimpleNamespace(metrics=METRICS)

    def check(self, recipe: Any, **options: Any) -> Any:
        self._called("check", recipe, options)
        return CHECKED

    def clean(self, source: Any, out: Any, **options: Any) -> Any:
        self._called("clean", source, {"out": out, **options})
        return CLEANED

    def plan_training(self, recipe: Any, **options: Any) -> Any:
        self._called("plan_training", recipe, options)
        return PLANNED

    def measure_hardware(self, **options: Any) -> Any:
        self._called("measure_hardware", None, options)
        return MEASURED


PLANNED = SimpleNamespace(
    model="small",
    task="instruct",
    chosen="lora",
    tokens=9000,
    micro_batch=2000,
    weights=False,
    tokenizer=False,
    techniques=[
        SimpleNamespace(
            technique="lora",
            refused=None,
            trainable=10_000,
            memory=dict.fromkeys(
                ("process", "weights", "gradients", "optimizer", "activations", "temporary"), 10**9
            ),
            peak=6 * 10**9,
            seconds=90.0,
            tokens_per_second=100.0,
            devices=[
                SimpleNamespace(
                    device="here", capacity=10**10, peak=6 * 10**9, largest=4000, largest_twice=9000
                ),
                SimpleNamespace(
                    device="24 GB", capacity=10**10, peak=10**9, largest=None, largest_twice=700
                ),
            ],
        ),
        SimpleNamespace(
            technique="repurpose",
            refused="It needs a task with classes.",
            trainable=0,
            memory={},
            peak=0,
            seconds=None,
            tokens_per_second=None,
            devices=[],
        ),
    ],
)


def _part(records: int) -> SimpleNamespace:
    return SimpleNamespace(
        records=records, tokens=900, trained_tokens=300, shortest=3, median=9.0, longest=30
    )


CHECKED = SimpleNamespace(
    model="smollm2",
    kind="decoder",
    task="instruct",
    technique="lora",
    format="alpaca",
    ignored=["id"],
    train=_part(80),
    validation=None,
    test=_part(20),
    cut=[SimpleNamespace(origin="train.jsonl:3", reason="12 tokens cut at the end")],
    dropped=[SimpleNamespace(origin="train.jsonl:5", reason="The assistant says nothing.")],
    classes=None,
    exact_duplicates=[],
    near_duplicates=[],
    leaks=[SimpleNamespace(origin="test.jsonl:7", reason="the same as train.jsonl:9")],
    parameters=1_000_000,
    trainable_parameters=10_000,
    steps=10,
    memory_bytes=2**30,
    seconds=61.0,
    metric="log_likelihood",
    detectable=0.25,
    assumption=None,
    members={},
    remarks=["Chat template: the model's own."],
    warnings=["1 test record stands in train."],
    shown=[
        SimpleNamespace(
            origin="train.jsonl:1",
            tokens=[
                SimpleNamespace(text="Say [hi].", trained=False),
                SimpleNamespace(text=" Hi!", trained=True),
            ],
        )
    ],
)

CLEANED = SimpleNamespace(
    files=[SimpleNamespace(source="a.jsonl", written="b.jsonl", records=90, dropped=3, changed=2)],
    log="b.log.jsonl",
    format="alpaca",
    dropped={"near_duplicate": 3},
    changed={"personal": 2},
    remarks=["4 labels may be wrong as well, but less surely (--sure)."],
)

MEASURED = SimpleNamespace(
    devices=[
        Roofline(
            device="cpu",
            name="a processor",
            identity={"device": "cpu", "threads": "2"},
            measured="2026-05-01T10:00:00Z",
            seconds=12.0,
            chosen_dtype="float32",
            products=(ProductRate("float32", 2, 512, Rate(80e9, 60e9, 20)),),
            bandwidths=(
                Bandwidth("read", 2, Rate(8e9, 8e9, 9)),
                Bandwidth("write", 2, Rate(10e9, 9e9, 9)),
            ),
            buffer_bytes=2**28,
            page_fault=PageFault(4096, 2e-6, 4e-6, 9),
            surroundings=Surroundings(0.1, 2, 0.5),
        )
    ],
    files=[Path("cache") / "cpu.json"],
    warnings=["Other processes used 1.0 of 2 cores meanwhile."],
)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    """Put the stand-in in place of `tunesmith.api`, in an empty current folder."""
    fake = FakeApi(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tunesmith.api", fake)
    monkeypatch.setattr(tunesmith, "api", fake, raising=False)
    return fake


@dataclass(frozen=True)
class Said:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one document on standard output; anything else there is an error."""
        read: dict[str, Any] = json.loads(self.out)
        return read


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command in this process."""

    def run(*arguments: str) -> Said:
        code = main.run(arguments)
        captured = capfd.readouterr()
        return Said(code, captured.out, captured.err)

    return run
