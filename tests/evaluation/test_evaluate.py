"""What is written of an evaluation: predictions, figures, and the instrument's own noise."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tests.tasks.plain_engine import PlainEngine
from tests.tiny import tiny_llama

from tunesmith.console import Console
from tunesmith.data.records import Conversation, Message
from tunesmith.errors import DataError, RunError
from tunesmith.evaluation.evaluate import measure, metrics_json, per_record, write_predictions
from tunesmith.evaluation.noise import Noise, measure_noise
from tunesmith.evaluation.probe import ProbeComparison
from tunesmith.evaluation.significance import compare
from tunesmith.tasks.base import ExampleScore
from tunesmith.tasks.instruct import Instruct

QUIET = Console(quiet=True)
MODEL = tiny_llama()
TASK = Instruct(Instruct.Options(max_new_tokens=4))
TASK.bind(MODEL)
DATA = [
    Conversation(
        messages=[
            Message(role="user", content=f"say {i}"), Message(role="assistant", content="x" * i)
        ]
    )
    for i in range(1, 9)
]  # fmt: skip
ORIGINS = [f"test.jsonl:{i}" for i in range(1, 9)]


class Shaky(PlainEngine):
    """Gives a slightly different answer each time, as some accelerators do."""

    calls = 0

    def forward(self, batch: object, readout: object) -> object:
        self.calls += 1
        found = super().forward(batch, readout)
        found.logprobs_N.add_(1e-3 * self.calls)
        return found


class Broken(PlainEngine):
    """Gives no finite probability."""

    def forward(self, batch: object, readout: object) -> object:
        found = super().forward(batch, readout)
        found.logprobs_N[0] = torch.nan
        return found


def scores(engine: PlainEngine, generate: int = 2) -> list[ExampleScore]:
    examples = TASK.encode_all(DATA, ORIGINS)
    return measure(TASK, engine, DATA, examples, generate=generate, console=QUIET)


def test_predictions_have_one_row_a_record_with_both_answers_and_all_statistics(tmp_path: Path):
    before, after = scores(PlainEngine(MODEL)), scores(Shaky(MODEL))
    path = tmp_path / "predictions.parquet"
    primary = TASK.metrics["log_likelihood"]
    write_predictions(path, TASK, DATA, ORIGINS, before, after, [primary])
    rows = pq.read_table(path).to_pylist()
    assert [row["origin"] for row in rows] == ORIGINS
    first, last = rows[0], rows[-1]
    assert (first["prompt"], first["reference"]) == ("say 1", "x")
    assert isinstance(first["output_before"], str)
    assert last["output_before"] is None
    assert last["before_rouge_l"] is None
    assert last["after_tokens"] == 9
    for row, a, b in zip(rows, before, after, strict=True):
        assert row["change"] == pytest.approx(per_record(primary, b) - per_record(primary, a))
        assert row["metric"] == "log_likelihood"
    assert list(tmp_path.iterdir()) == [path]


def test_of_several_that_decide_a_record_has_the_one_that_was_measured_on_it(tmp_path: Path):
    found, path = scores(PlainEngine(MODEL)), tmp_path / "predictions.parquet"
    deciding = [TASK.metrics["rouge_l"], TASK.metrics["log_likelihood"]]
    write_predictions(path, TASK, DATA, ORIGINS, found, found, deciding)
    rows = pq.read_table(path).to_pylist()
    assert [row["metric"] for row in rows[:2]] == ["rouge_l"] * 2  # answered for real
    assert {row["metric"] for row in rows[2:]} == {"log_likelihood"}


def test_predictions_that_cannot_be_written_are_an_error_with_a_fix(tmp_path: Path):
    found = scores(PlainEngine(MODEL), generate=0)
    metric = TASK.metrics["perplexity"]
    path = tmp_path / "missing" / "predictions.parquet"
    with pytest.raises(RunError, match="Could not write"):
        write_predictions(path, TASK, DATA, ORIGINS, found, found, [metric])


def test_a_metric_of_one_record_is_none_where_it_was_not_measured():
    found = scores(PlainEngine(MODEL))
    assert per_record(TASK.metrics["rouge_l"], found[0]) is not None
    assert per_record(TASK.metrics["rouge_l"], found[-1]) is None


def test_the_figures_are_plain_json_with_everything_that_a_report_needs():
    before, after = scores(PlainEngine(MODEL)), scores(Shaky(MODEL))
    comparison = compare(before, after, TASK.metrics, "log_likelihood", resamples=200)
    noise = Noise("log_likelihood", 0.0, 8, {"log_likelihood": 0.0})
    probe = ProbeComparison("encyclopaedia", 20.0, 21.0, 2400, (0.5, 1.5), True)
    found = json.loads(json.dumps(metrics_json(comparison, noise, probe)))
    assert found["schema_version"] == 1
    assert found["verdict"] == comparison.verdict
    row = found["metrics"]["log_likelihood"]
    assert row["interval"] == list(comparison.rows["log_likelihood"].interval)
    assert {"before", "after", "difference", "p_value", "p_holm", "detectable", "n"} <= row.keys()
    assert {"unit", "description", "higher_is_better"} <= row.keys()
    assert found["noise"]["records"] == 8
    assert found["probe"]["unit"] == "perplexity"


def test_a_score_that_is_not_finite_is_an_error_that_names_the_record():
    with pytest.raises(RunError, match=r"record \d+: The log_likelihood of a record is nan"):
        scores(Broken(MODEL), generate=0)


def test_the_noise_of_equal_sums_is_zero_and_that_of_a_shaky_machine_is_not():
    examples = TASK.encode_all(DATA)
    options = {"primary": "log_likelihood", "generate": 2, "console": QUIET}
    steady = measure_noise(TASK, PlainEngine(MODEL), DATA, examples, **options)
    shaky = measure_noise(TASK, Shaky(MODEL), DATA, examples, **options)
    assert (steady.difference, steady.records) == (0.0, 8)
    assert set(steady.differences) == set(TASK.metrics)
    assert shaky.difference == pytest.approx(1e-3, rel=0.01)


def test_a_metric_that_decides_but_could_not_be_measured_is_an_error():
    examples = TASK.encode_all(DATA)
    with pytest.raises(DataError, match="'rouge_l', which decides"):
        measure_noise(
            TASK, PlainEngine(MODEL), DATA, examples, primary="rouge_l", generate=0, console=QUIET
        )
