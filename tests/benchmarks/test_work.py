"""The work: the same token ids for every side, shapes, scoring, and each rung the same numbers."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.ladder import RUNGS, climbed, run_rung
from benchmarks.peers import encode, scoring
from benchmarks.peers.measure import RUNNERS, read_marks
from benchmarks.peers.shapes import SHAPES, make
from benchmarks.peers.sides import OURS, SIDES, sides_for
from benchmarks.peers.work import INTERFACE, Work, _instructions, write_lines
from benchmarks.scaling import Point, curves, run_point
from benchmarks.switches import Switches, engine
from safetensors.torch import save_file
from tests.tiny import tiny_config, tiny_model_folder
from transformers import BertForSequenceClassification

from tunesmith.engine import engine as engines
from tunesmith.kernels import native, token_loss

RECORDS = [
    {"instruction": "Name a colour.", "input": "", "output": "Blue."},
    {"instruction": "Add.", "input": "1, 2", "output": "3"},
    {"instruction": "Greet me.", "input": "", "output": "Good day to you."},
]


REPLACED = ((native, "native"), (token_loss, "CHUNK_BYTES"), (engines, "reuse_memory"))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A small job on a tiny Llama, encoded."""
    model = tiny_model_folder(tmp_path / "model", family="llama")
    work = Work.of_kind("lora", len(RECORDS), model=str(model))
    folder = tmp_path / "job"
    folder.mkdir()
    write_lines(folder / "train.jsonl", RECORDS)
    write_lines(folder / "held_out.jsonl", RECORDS[:1])
    (folder / "job.json").write_text(json.dumps(work.__dict__))
    encode.main(folder)
    return folder


def test_the_encoded_records_learn_the_answers_alone(job: Path) -> None:
    rows = [json.loads(line) for line in (job / "encoded.jsonl").read_text().splitlines()]
    told = json.loads((job / "job.json").read_text())
    learnt = [[token for token in row["labels"] if token != -100] for row in rows]
    assert told["targets"] == sum(map(len, learnt))
    assert told["tokens"] == sum(len(row["input_ids"]) for row in rows)
    for row in rows:
        pairs = zip(row["input_ids"], row["labels"], strict=True)
        assert all(label in (token, -100) for token, label in pairs)
        assert row["labels"][0] == -100
    assert all(0 < len(ids) < len(row["input_ids"]) for ids, row in zip(learnt, rows, strict=True))


def test_the_scored_loss_is_that_of_transformers(job: Path) -> None:
    from transformers import AutoModelForCausalLM

    told = json.loads((job / "job.json").read_text())
    out = job.parent / "side"
    (out / "model").mkdir(parents=True)
    model = AutoModelForCausalLM.from_pretrained(told["path"], dtype=torch.float32).eval()
    model.save_pretrained(out / "model" / "deeper")
    (row,) = (job / "held_out_encoded.jsonl").read_text().splitlines()
    batch = {name: torch.tensor([ids]) for name, ids in json.loads(row).items()}
    with torch.no_grad():
        expected = float(model(**batch).loss)
    assert scoring.main(job, [out])["side"]["held_out_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_head_is_scored_on_the_mean_of_the_body(tmp_path: Path) -> None:
    model = tiny_model_folder(tmp_path / "model", family="bert")
    job = {"kind": "head", "path": str(model)}
    (tmp_path / "job.json").write_text(json.dumps(job))
    rows = [{"input_ids": [4, 20, 30, 5], "labels": 1}, {"input_ids": [4, 9, 5], "labels": 0}]
    write_lines(tmp_path / "held_out_encoded.jsonl", rows)
    out = tmp_path / "side"
    (out / "model").mkdir(parents=True)
    (out / "model" / "head.json").write_text('{"normalised": true}')
    bias = torch.tensor([0.0, 100.0])
    parts = {"weight": torch.zeros(2, 32), "bias": bias}
    save_file(parts, out / "model" / "head.safetensors")
    found = scoring.main(tmp_path, [out])["side"]
    assert found["held_out_accuracy"] == 0.5
    assert found["held_out_loss"] == pytest.approx(50.0)


def test_a_classifier_is_scored_by_the_names_of_its_classes(tmp_path: Path) -> None:
    names = {0: "positive", 1: "negative"}
    config = tiny_config("bert", id2label=names, label2id={n: i for i, n in names.items()})
    model = BertForSequenceClassification(config).eval()
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor([0.0, 100.0])  # always negative
    out = tmp_path / "side"
    model.save_pretrained(out / "model")
    job = {"kind": "classifier", "path": "", "labels": ["negative", "positive"]}
    (tmp_path / "job.json").write_text(json.dumps(job))
    rows = [{"input_ids": [4, 20, 30, 5], "labels": 0}] * 3 + [{"input_ids": [4, 5], "labels": 1}]
    write_lines(tmp_path / "held_out_encoded.jsonl", rows)
    found = scoring.main(tmp_path, [out])["side"]
    assert found["held_out_accuracy"] == 0.75
    assert found["held_out_loss"] == pytest.approx(25.0)


def test_every_rung_learns_the_same(job: Path, tmp_path: Path) -> None:
    losses = []
    for rung, switches in climbed():
        out = tmp_path / rung.key
        out.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            for module, name in REPLACED:
                patch.setattr(module, name, getattr(module, name))
            run_rung(job, out, replace(Switches(), **switches))
        marks = read_marks(out)
        losses += [mark["value"] for mark in marks if mark["event"] == "figure"]
        assert (
            sum(m.get("targets", 0) for m in marks)
            == json.loads((job / "job.json").read_text())["targets"]
        )
    assert losses == pytest.approx([losses[0]] * len(RUNGS), rel=1e-4)


def test_the_ladder_begins_plain_and_ends_with_all_that_the_engine_does() -> None:
    steps = [replace(Switches(), **switches) for _, switches in climbed()]
    assert not any((steps[0].packing, steps[0].fuse, steps[0].compiled, steps[0].reuse))
    assert steps[-1] == Switches()


def test_the_rung_of_float8_multiplies_what_learns_in_8_bits(job: Path) -> None:
    model = json.loads((job / "job.json").read_text())["path"]
    made, _ = engine(model, {"name": "full"}, Switches(float8=True))
    assert made.kernels["learnt layers"].endswith("in float8")
    plain, _ = engine(model, {"name": "full"}, Switches())
    assert "learnt layers" not in plain.kernels


def test_a_point_of_a_curve_reads_the_tokens_that_it_says(job: Path, tmp_path: Path) -> None:
    model = json.loads((job / "job.json").read_text())["path"]
    out = tmp_path / "point"
    out.mkdir()
    run_point(Point(model=model, length=16, documents=3, steps=2, rank=2), out)
    marks = read_marks(out)
    assert [m["tokens"] for m in marks if m["event"] == "batch"] == [48, 48, 48]
    assert [m["targets"] for m in marks if m["event"] == "batch"] == [45, 45, 45]
    assert marks[-1]["event"] == "trained"


def test_curves_reach_4k_on_a_cpu_and_32k_on_a_gpu() -> None:
    for device, longest in (("cpu", 4096), ("cuda", 32768)):
        found = curves(Point(), device, cores=4)
        assert max(point.length for point in found["length"]) == longest
        assert [point.threads for point in found["cores"]] == [1, 2, 4]


@pytest.mark.parametrize(("shape", "billions"), [("qwen3-8b", 8.19), ("llama-3.1-8b", 8.03)])
def test_the_big_shapes_have_the_size_of_the_real_models(shape: str, billions: float) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    family, settings = SHAPES[shape]
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    count = sum(parameter.numel() for parameter in module.parameters())
    assert count / 1e9 == pytest.approx(billions, abs=0.01)


def test_a_shape_is_made_once_and_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = tiny_model_folder(tmp_path / "tokenizer", family="llama")
    folder = make("tiny-qwen3", tokenizer, tmp_path / "models", vocab_size=300)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert make("tiny-qwen3", tokenizer, tmp_path / "models") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert AutoModelForCausalLM.from_pretrained(folder).config.model_type == "qwen3"


def test_every_side_has_its_runner_and_a_key_of_its_own() -> None:
    assert len({side.key for side in SIDES}) == len(SIDES)
    assert all((RUNNERS / f"{side.runner}.py").exists() for side in SIDES)


def test_tunesmith_is_always_among_the_sides() -> None:
    assert [side.key for side in sides_for("lora", "cpu", ["trl"])] == [OURS, "trl"]
    assert sides_for("head", "cpu")[0].key == OURS


def test_a_side_that_is_not_known_is_refused() -> None:
    with pytest.raises(SystemExit, match="no side for head is called 'litgpt'"):
        sides_for("head", "cpu", ["litgpt"])


def test_runners_of_peers_import_nothing_of_ours() -> None:
    for path in RUNNERS.glob("*.py"):
        tree = ast.parse(path.read_text())
        names = {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
            for alias in node.names
        }  # fmt: skip
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        ours = {name for name in names if name.split(".")[0] in {"tunesmith", "benchmarks"}}
        assert not ours or path.stem == "tunesmith_loop", path.name


def test_the_harness_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, benchmarks.peers.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=RUNNERS.parents[2]).returncode == 0


def test_the_records_of_the_example_can_be_the_work_too() -> None:
    work = Work.of_kind("lora", 5, data=INTERFACE, held_out=3)
    train, held_out = _instructions(work)
    assert (len(train), len(held_out)) == (5, 3)
    assert all(set(row) == {"instruction", "input", "output"} for row in [*train, *held_out])
    assert not any(row in held_out for row in train)
    assert Work.of_kind("lora", 5, data=None).data == "alpaca"
