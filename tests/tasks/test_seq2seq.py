"""Seq2seq: pairs as transformers reads them, targets measured by likelihood and by generation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from tests.interrupting import stopping_at
from tests.tiny import ENCODER_DECODERS, tiny_model, tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.data.records import TextPair
from tunesmith.engine.engine import Engine
from tunesmith.errors import DataError, ModelError, RecipeError, UnlearnableError
from tunesmith.evaluation.probe import probe_refusal
from tunesmith.evaluation.significance import figures
from tunesmith.models.resolve import of_folder
from tunesmith.registry import TASKS
from tunesmith.runs.build import refuse
from tunesmith.tasks.seq2seq import Seq2Seq
from tunesmith.techniques.lora import Lora

QUIET = Console(quiet=True)
FAMILIES = (*ENCODER_DECODERS, "llama")
PAIRS = [TextPair(source=f"Say {i} apples", target=f"apples {i}" + " twice" * (i % 3))
         for i in range(8)]  # fmt: skip


def bound(family: str, **options):
    model = tiny_model(family, "causal_lm" if family == "llama" else "seq2seq_lm")
    task = Seq2Seq(Seq2Seq.Options(**{"max_new_tokens": 16} | options))
    task.bind(model)
    return task, model


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_streams_are_what_the_tokenizer_and_the_models_own_shifting_make(family):
    task, model = bound(family)
    example = task.encode(PAIRS[1])
    labels = model.tokenizer(text_target=PAIRS[1].target)["input_ids"]
    shifted = model.module.prepare_decoder_input_ids_from_labels(torch.tensor([labels]))
    source, target = example.streams["source"], example.streams["target"]
    assert list(source.ids) == model.tokenizer(PAIRS[1].source)["input_ids"]
    assert list(target.ids) == [*shifted[0, :1].tolist(), *labels]
    assert target.weights == (0.0, *[1.0] * len(labels))
    assert source.weights is None


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_measured_likelihood_is_transformers_loss_over_all_labels(family):
    task, model = bound(family)
    engine = Engine(model)
    scores = task.measure(engine, PAIRS, task.encode_all(PAIRS), generate=0, console=QUIET)
    for pair, score in zip(PAIRS, scores, strict=True):
        source = torch.tensor([model.tokenizer(pair.source)["input_ids"]])
        labels = torch.tensor([model.tokenizer(text_target=pair.target)["input_ids"]])
        with torch.no_grad():
            loss = float(model.module(input_ids=source, labels=labels).loss)
        assert score.statistics["tokens"] == labels.numel()
        assert score.statistics["log_likelihood"] == pytest.approx(-loss * labels.numel(), rel=1e-4)


def test_a_decoder_learns_the_target_as_the_answer_to_its_source():
    task, model = bound("llama", prefix="Translate: ")
    [stream] = task.encode(PAIRS[0]).streams.values()
    assert model.tokenizer.decode(stream.ids) == (
        "<|im_start|>user\nTranslate: Say 0 apples<|im_end|>\n"
        "<|im_start|>assistant\napples 0<|im_end|>"
    )
    learnt = [i for i, on in zip(stream.ids, stream.learnt(), strict=True) if on]
    assert model.tokenizer.decode(learnt) == "apples 0<|im_end|>"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_is_what_a_training_example_reads(family):
    task, _ = bound(family, prefix="short: ")
    example = task.encode(PAIRS[0])
    prompt = task.prompt(PAIRS[0].source).ids
    if family == "llama":
        ids = example.streams["text"].ids
        assert list(ids[: len(prompt)]) == prompt
        assert not any(example.streams["text"].learnt()[: len(prompt)])
    else:
        assert list(example.streams["source"].ids) == prompt


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prefix_stands_before_every_source(family):
    task, model = bound(family, prefix="translate: ")
    assert "translate: Say 2" in model.tokenizer.decode(task.prompt("Say 2").ids)
    assert task.present(PAIRS[2])[0] == "translate: Say 2 apples"


@pytest.mark.parametrize("family", FAMILIES)
def test_long_texts_are_cut_at_their_end_and_then_nothing_learns_to_stop(family):
    task, model = bound(family, max_source_length=60, max_target_length=10)
    pair = TextPair(source="begin " + "a" * 200 + " end", target="0123456789" * 3)
    example = task.encode(pair)
    texts = {n: model.tokenizer.decode(s.ids) for n, s in example.streams.items()}
    said = texts.get("source", texts.get("text"))
    assert "begin" in said
    assert "end" not in said.replace("<|im_end|>", "")
    target = example.streams.get("target", example.streams.get("text"))
    learnt = [i for i, on in zip(target.ids, target.learnt(), strict=True) if on]
    assert len(learnt) <= 10
    assert learnt[-1] not in task.stop_ids
    assert example.cut.side == "end"
    assert example.cut.tokens > 150
    assert example.cut.targets >= 20
    assert len(example.streams.get("source", target).ids) <= 60 + 10


def test_a_prompt_that_is_too_long_is_cut_like_a_training_source():
    task, _ = bound("bart", max_source_length=20)
    assert len(task.prompt("a" * 100).ids) == 20
    assert task.prompt("a" * 100).ids[-1] == 5


@pytest.mark.parametrize("family", FAMILIES)
def test_look_alikes_of_special_tokens_stay_text(family):
    task, model = bound(family)
    example = task.encode(TextPair(source="a <sep> <pad> b", target="c <|im_end|> <sep> d"))
    streams = list(example.streams.values())
    plain = {i for stream in streams for i in stream.ids}
    unknown = set(model.tokenizer.all_special_ids) & plain
    assert unknown <= {0, 1, 2, 4, 5}
    assert list(streams[-1].ids).count(2 if family == "llama" else 5) <= 2


def test_a_source_without_tokens_is_not_learnt():
    task, model = bound("t5")
    model.tokenizer.backend_tokenizer.normalizer = None
    with pytest.raises(UnlearnableError, match="target has no tokens"):
        task.encode(TextPair.model_construct(source="a", target=""))
    with pytest.raises(UnlearnableError, match="source has no tokens"):
        task.encode(TextPair.model_construct(source="", target="a"))


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_targets_are_measured_as_sacrebleu_measures_them(family):
    task, model = bound(family, max_new_tokens=8, beams=2)
    engine = Engine(model)
    scores = task.measure(engine, PAIRS, task.encode_all(PAIRS), generate=5, console=QUIET)
    assert [score.output is not None for score in scores] == [True] * 5 + [False] * 3
    said = [score.output.strip() for score in scores[:5]]
    right = [[pair.target for pair in PAIRS[:5]]]
    found = figures(scores, task.metrics)
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(said, right).score, abs=1e-6)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(said, right).score, abs=1e-6)
    assert said == [answer.text.strip() for answer in task.predict(
        engine, [pair.source for pair in PAIRS[:5]])]  # fmt: skip


def test_the_right_target_gets_full_marks():
    task, _ = bound("t5")
    rows = [task._scores(pair.target, pair.target, stopped=True) for pair in PAIRS]
    sums = {name: sum(row[name] for row in rows) for name in rows[0]}
    arrays = {name: np.array(value) for name, value in sums.items()}
    generated = [metric for metric in task.metrics.values() if metric.generated]
    for metric in generated:
        best = 100 if metric.name in ("bleu", "chrf") else 1
        assert float(metric.compute(arrays)) == pytest.approx(best), metric.name


def test_generation_settings_say_what_was_measured():
    _, model = bound("bart", beams=3, max_new_tokens=9)
    settings = model.module.generation_config
    assert (settings.num_beams, settings.max_new_tokens, settings.max_length) == (3, 9, None)
    assert settings.decoder_start_token_id == 5


def test_settings_of_the_models_own_that_hold_are_named():
    model = tiny_model("bart", "seq2seq_lm")
    model.module.generation_config.no_repeat_ngram_size = 3
    model.module.generation_config.early_stopping = True
    task = Seq2Seq()
    task.bind(model)
    assert task.remarks() == ["The model's own generation settings hold: no_repeat_ngram_size 3."]


def test_a_tokenizer_without_languages_says_so():
    with pytest.raises(RecipeError, match="is not told languages"):
        bound("t5", target_language="de")
    with pytest.raises(RecipeError, match="told languages in words"):
        bound("llama", target_language="de")


def test_targets_that_fill_the_context_of_a_decoder_are_refused():
    with pytest.raises(RecipeError, match="leave no room for a source in the model's context"):
        bound("llama", max_new_tokens=128)


def test_other_inputs_than_texts_are_refused():
    task, model = bound("t5")
    with pytest.raises(DataError, match="no text"):
        task.predict(Engine(model), [["a", "b"]])


def test_the_base_that_reads_and_writes_has_no_probe():
    assert "writes one text from another" in probe_refusal(Engine(tiny_model("t5", "seq2seq_lm")))


@pytest.mark.parametrize("name", [n for n in TASKS.names() if n not in ("seq2seq", "multitask")])
def test_other_tasks_refuse_an_encoder_decoder_and_name_this_one(tmp_path, name):
    source = of_folder(tiny_model_folder(tmp_path, "t5"), "t5", "folder")
    with pytest.raises(ModelError, match="which the task seq2seq trains"):
        refuse(Lora(), TASKS.get(name)(), source)


def test_a_model_is_judged_for_it_with_its_records(tmp_path):
    asked = recipe(tmp_path, "t5")
    fit = api.inspect(asked["model"], task="seq2seq", data=asked["data"]["train"]).fit
    assert fit.verdict == "fit"
    said = " ".join(reason.what for reason in fit.reasons)
    assert "an encoder-decoder, which the task seq2seq can use" in said
    assert "the model's context has no limit" in said


def test_an_encoder_writes_nothing(tmp_path):
    source = of_folder(tiny_model_folder(tmp_path, "bert"), "bert", "folder")
    with pytest.raises(ModelError, match="an encoder-decoder or a decoder"):
        refuse(Lora(), Seq2Seq(), source)


def recipe(folder: Path, family: str, **sections):
    rows = [{"source": p.source, "target": p.target} for p in PAIRS * 2]
    unlike = [{**row, "source": f"{row['source']} {i}"} for i, row in enumerate(rows)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unlike))
    return {
        "model": str(tiny_model_folder(folder, family, dropout=0.1)),
        "task": {"name": "seq2seq", "max_new_tokens": 4},
        "data": {"train": str(folder / "train.jsonl")},
        "technique": {"name": "lora", "rank": 2},
        "training": {"max_steps": 4, "batch_size": 4, "tokens_per_batch": 80,
                     "learning_rate": 0.01, "checkpoint_every": 2},
        "evaluation": {"generate": 2, "probe": False, "resamples": 100},
    } | sections  # fmt: skip


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_run_learns_reports_and_is_used(tmp_path, monkeypatch, family):
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "cache"))
    asked = recipe(tmp_path, family, technique="full")
    looked = api.check(asked, show=1, console=QUIET)
    assert [piece.trained for piece in looked.shown[0].tokens] == [False, False, True]
    assert looked.kind == "encoder-decoder"
    run = api.train(asked, runs_dir=tmp_path / "runs", console=QUIET)
    assert set(run.metrics["metrics"]) >= {"log_likelihood", "bleu", "chrf", "rouge_l"}
    assert run.summary["flops"] > 0
    assert "BLEU" in run.report.read_text() or "bleu" in run.report.read_text()
    again = api.open_run(run.path)
    assert again.predict(["Say 3 apples"])[0] == run.predict(["Say 3 apples"])[0]
    assert again.predict(["Say 3 apples"], who="base")[0].text is not None


def test_a_run_that_was_stopped_goes_on_exactly(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "cache"))
    asked = recipe(tmp_path, "bart")
    whole = api.train(asked, runs_dir=tmp_path / "runs", name="whole", console=QUIET)
    with stopping_at(3, OSError("pulled out")), pytest.raises(OSError, match="pulled out"):
        api.train(asked, runs_dir=tmp_path / "runs", name="cut", console=QUIET)
    gone_on = api.resume(tmp_path / "runs" / "cut", console=QUIET)
    ours, theirs = (r.path / "model" / "adapter_model.safetensors" for r in (gone_on, whole))
    assert ours.read_bytes() == theirs.read_bytes()
