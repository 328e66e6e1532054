"""Every option that a recipe accepts changes something that a user can see.

A table: option, two values, and where the difference shows. Another test holds the table against
the options that exist, so that a new option without a row fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.jobs import (
    ANSWERS,
    ASKED,
    CLASSES,
    NUMBERS,
    RANKED,
    RELATED,
    SEVERAL,
    TAGGED,
    TEXTS,
    TRANSLATED,
    lines,
)
from tests.acceptance.showing import (
    SILENT,
    answer,
    batches,
    checked,
    checkpoints,
    events,
    generated_with,
    held_out,
    metrics,
    operated,
    passes,
    record,
    refusal,
    refused_data,
    refused_or_counted,
    replies,
    result,
    said,
    scores,
    steps,
)
from tests.tiny import tiny_model_folder

from tunesmith import api
from tunesmith.recipes import (
    BaseOptions,
    DataOptions,
    EvaluationOptions,
    Recipe,
    TrainingOptions,
)
from tunesmith.registry import OBJECTIVES, OPERATIONS, RETAINERS, TASKS, TECHNIQUES
from tunesmith.tasks.multitask import Member

TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
FIVE_BAD, MANY_GOOD = CLASSES[1:11:2], CLASSES[::2] * 2
FILES = {
    "train.jsonl": ANSWERS,
    "tested.jsonl": [{"prompt": f"Say {i} {i + 1}", "completion": "yes"} for i in range(6)],
    "texts.jsonl": TEXTS,
    "older.jsonl": [{"prompt": f"List {i}", "completion": f"{i}, {i}"} for i in range(30)],
    "old.jsonl": [{"prompt": f"Count {i}", "completion": f"{i} {i + 1}"} for i in range(9)],
    "silent.jsonl": [*ANSWERS, {"prompt": "Say nothing", "completion": ""}],
    "class.jsonl": CLASSES,
    "pairs.jsonl": [{**row, "text_pair": "It is said."} for row in CLASSES],
    "several.jsonl": SEVERAL,
    "numbers.jsonl": NUMBERS,
    "ranked.jsonl": RANKED,
    "tagged.jsonl": TAGGED,
    "translated.jsonl": TRANSLATED,
    "related.jsonl": RELATED,
    "scored.jsonl": [{"sentence1": row["anchor"], "sentence2": row["positive"], "score": i % 5}
                     for i, row in enumerate(RELATED)],
    "asked.jsonl": [*ASKED, ASKED[0] | {"answers": {"text": [], "answer_start": []}}],
    "uneven.jsonl": [{**row, "text": f"{row['text']} {i}"}
                     for i, row in enumerate([*MANY_GOOD, *FIVE_BAD])],
    "grouped.jsonl": [{**row, "topic": i // 5} for i, row in enumerate(ANSWERS)],
    "turns.jsonl": [
        {"messages": [{"role": role, "content": f"{text} {i}"} for role, text in (
            ("user", "Hi"), ("assistant", "Hello"), ("user", "Who"), ("assistant", "Me"))]}
        for i in range(20)
    ],
    "either.jsonl": [
        {**row, "messages": [{"role": "user", "content": "Hi"},
                             {"role": "assistant", "content": f"Hello {i}"}]}
        for i, row in enumerate(ANSWERS)
    ],
}  # fmt: skip

INSTRUCT = {
    "model": "llama",
    "task": {"name": "instruct", "max_new_tokens": 3},
    "data": {"train": "train.jsonl"},
    "technique": {"name": "lora", "rank": 2},
    "training": {"learning_rate": 0.01, "schedule": "constant", "warmup": 0.0},
    "evaluation": {"generate": 2, "probe": False, "resamples": 100},
}
FULL = INSTRUCT | {"technique": "full"}
LAYERS = INSTRUCT | {"technique": {"name": "layers", "last": 1}}
FOUND = INSTRUCT | {"technique": {"name": "layers", "count": 1}}
VERA, IA3, OFT, PROMPT, P_TUNING, PREFIX = (
    INSTRUCT | {"technique": {"name": name}}
    for name in ("vera", "ia3", "oft", "prompt_tuning", "p_tuning", "prefix_tuning")
)
BOFT = INSTRUCT | {"technique": {"name": "boft"}}
ADALORA = INSTRUCT | {
    "technique": {"name": "adalora", "rank": 2, "start_rank": 4, "every": 1},
    "training": {"learning_rate": 0.02, "max_steps": 8},
}
GALORE, LISA = (
    INSTRUCT | {"technique": technique, "training": {"learning_rate": 0.01, "max_steps": 8}}
    for technique in ({"name": "galore", "rank": 4}, {"name": "lisa", "layers": 1})
)
LM = INSTRUCT | {
    "task": {"name": "language_modeling", "max_new_tokens": 3},
    "data": {"train": "texts.jsonl"},
}
FILL = LM | {
    "model": "masked-bert",
    "task": {"name": "masked_language_modeling"},
    "technique": "full",
}
WRITE = INSTRUCT | {
    "model": "bart",
    "task": {"name": "seq2seq", "max_new_tokens": 3},
    "data": {"train": "translated.jsonl"},
}
CLASS = INSTRUCT | {
    "model": "bert",
    "task": {"name": "classification"},
    "data": {"train": "class.jsonl"},
    "technique": "full",
}
ASK = CLASS | {"task": {"name": "extraction"}, "data": {"train": "asked.jsonl"}}
EMBED = CLASS | {"task": {"name": "embedding"}, "data": {"train": "related.jsonl"}}
ORDER = EMBED | {"data": {"train": "scored.jsonl"}, "objective": {"name": "score_order"}}
PAIRS = CLASS | {"model": "gpt2", "data": {"train": "pairs.jsonl"}}
SEVERAL_CLASSES = CLASS | {"task": {"name": "multi_label"}, "data": {"train": "several.jsonl"}}
NUMBER = CLASS | {"task": {"name": "regression"}, "data": {"train": "numbers.jsonl"}}
RANK = CLASS | {"task": {"name": "reranking"}, "data": {"train": "ranked.jsonl"}}
TAG = CLASS | {"task": {"name": "tagging"}, "data": {"train": "tagged.jsonl"}}
LATE = {"task": {"name": "classification"}, "data": {"train": "class.jsonl"}}
SEVERAL_TASKS = {name: value for name, value in INSTRUCT.items() if name != "data"} | {
    "task": {
        "name": "multitask",
        "members": {
            "first": {"task": INSTRUCT["task"], "data": INSTRUCT["data"]},
            "late": LATE,
        },
    },
}
STREAM = INSTRUCT | {
    "data": {"train": "train.jsonl", "test": "tested.jsonl"},
    "training": {"max_steps": 2},
}
TAUGHT = INSTRUCT | {"objective": {"name": "distillation", "teacher": "tiny-llama-5"}}
TAUGHT_CLASSES = CLASS | {"objective": {"name": "class_distillation", "teacher": "runs/5"}}
REPURPOSE = CLASS | {"technique": {"name": "repurpose"}}
WILD = FULL | {  # too high a rate: the first validation is the best
    "training": {"learning_rate": 2.0, "warmup": 0.0, "validate_every": 1, "max_steps": 4}
}


STEADY = INSTRUCT["training"] | {"learning_rate": 0.003, "epochs": 2}
LISTED = {"operation": "surgery", "retainer": "retain"}
"""Kinds of which a recipe lists several, and under which key."""


def put(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe with values set at dotted places."""
    made = json.loads(json.dumps(recipe))
    for dotted, value in changes.items():
        *sections, last = dotted.split(".")
        level = made
        for name in sections:
            level = level.setdefault(name, {})
        level[last] = value
    return made


@dataclass(frozen=True)
class Row:
    """An option, two values of it, and where the difference shows.

    Attributes:
        one: the first value.
        other: the second.
        shows: what is observed; it must differ.
        recipe: the job, else an instruct job with LoRA.
        also: other options that are set in both.
        part: the field of what is observed that must differ, where it has fields.
    """

    one: Any
    other: Any
    shows: Callable[[dict[str, Any], Path], Any]
    recipe: Mapping[str, Any] = field(default_factory=lambda: INSTRUCT)
    also: Mapping[str, Any] = field(default_factory=dict)
    part: str | None = None


READ = {
    "max_length": Row(None, 10, checked, part="cut"),
    "truncation": Row("end", "start", checked, also={"task.max_length": 10}, part="cut"),
    "instruction": Row(None, "Say:", checked, part="shown"),
    "separator": Row("|", " ", checked, also={"task.instruction": "Say:"}, part="shown"),
}
"""Options of every task that reads a text whole."""

TABLE: dict[str, Row] = {
    "model": Row("llama", "gpt2", checked, part="parameters"),
    "task": Row("language_modeling", "classification", checked, CLASS | {"model": "llama"},
                part="metric"),
    "data": Row({"train": "train.jsonl"}, {"train": "either.jsonl", "format": "chat"}, checked,
                part="train"),
    "technique": Row("lora", "full", checked, part="trainable_parameters"),
    "objective": Row("token_likelihood", "classes", refusal),
    "training": Row({}, {"epochs": 2}, checked, part="steps"),
    "evaluation": Row({}, {"metric": "perplexity"}, checked, part="metric"),
    # data
    "surgery": Row([], [{"name": "drop", "layers": [0]}], checked, part="parameters"),
    "retain": Row([], [{"name": "l2_sp", "strength": 100.0}], result, FULL),
    "data.train": Row("train.jsonl", ["train.jsonl", "either.jsonl"], checked, part="train",
                      also={"data.format": "prompt_completion"}),
    "data.test": Row(0.2, 0.4, checked, part="test"),
    "data.validation": Row(None, 0.2, checked, part="validation"),
    "data.format": Row("chat", "prompt_completion", checked, part="format",
                       also={"data.train": "either.jsonl"}),
    "data.group": Row(None, "topic", held_out, also={"data.train": "grouped.jsonl"}),
    "data.columns": Row({}, {"prompt": "completion", "completion": "prompt"}, checked,
                        part="shown"),
    "data.unlearnable": Row("error", "drop", refused_or_counted,
                            also={"data.train": "silent.jsonl"}),
    "data.streaming": Row(False, True, checked, STREAM, part="remarks"),
    "data.window": Row(4, 9, checked, STREAM, {"data.streaming": True}, part="train"),
    "data.stratify": Row(True, False, held_out, CLASS,
                         {"data.train": "uneven.jsonl", "training.seed": 1}),
    "base": Row({}, {"quantize": "int8"}, result),
    "base.quantize": Row("int8", "nf4", result),
    "base.stream": Row(False, True, refusal, FULL),
    "base.double_quantize": Row(True, False, result, also={"base.quantize": "nf4"}),
    # training
    "training.epochs": Row(1.0, 2.0, checked, part="steps"),
    "training.max_steps": Row(None, 2, checked, part="steps"),
    "training.learning_rate": Row(0.01, 0.02, result),
    "training.schedule": Row("linear", "cosine", events),
    "training.warmup": Row(0.0, 1.0, events),
    "training.batch_size": Row(4, 8, checked, part="steps"),
    "training.tokens_per_batch": Row(100, 2000, passes),
    "training.packing": Row(True, False, record, part="packed"),
    "training.weight_decay": Row(0.0, 0.5, result),
    "training.max_grad_norm": Row(1.0, 1e-6, result, also={"training.epsilon": 0.1}),
    "training.beta1": Row(0.9, 0.5, result),
    "training.beta2": Row(0.999, 0.5, result),
    "training.epsilon": Row(1e-8, 0.1, result),
    "training.optimizer": Row("adamw", "adamw_8bit", result, FULL),
    "training.clip_per_tensor": Row(False, True, result, FULL,
                                    {"training.max_grad_norm": 0.01, "training.epsilon": 0.01}),
    "training.optimizer_in_backward": Row(False, True, refusal, FULL, {
        "training.clip_per_tensor": True, "training.tokens_per_batch": 40}),
    "training.stochastic_rounding": Row(False, True, result, FULL,
                                        {"training.precision": "bfloat16"}),
    "training.memory_gb": Row("auto", 0.001, refusal),
    "training.cache_gb": Row("auto", 0.0, record, LAYERS, part="frozen"),
    "training.precision": Row("float32", "bfloat16", record, part="dtype"),
    "training.seed": Row(0, 1, held_out),
    "training.validate_every": Row(None, 1, events),
    "training.patience": Row(None, 1, events, WILD),
    "training.keep_best": Row(False, True, result, WILD),
    "training.checkpoint_every": Row(None, 1, checkpoints),
    "training.keep_checkpoints": Row(1, 2, checkpoints, also={"training.checkpoint_every": 1}),
    # evaluation
    "evaluation.metric": Row(None, "perplexity", metrics, part="primary"),
    "evaluation.confidence": Row(0.95, 0.5, metrics, part="metrics"),
    "evaluation.resamples": Row(100, 1000, metrics, part="metrics"),
    "evaluation.generate": Row(0, 3, metrics, part="metrics"),
    "evaluation.probe": Row(False, True, metrics, part="probe"),
    "evaluation.tokens_per_batch": Row(50, 4096, batches),
    # tasks
    "task instruct.max_length": Row(None, 30, checked, part="cut"),
    "task instruct.max_new_tokens": Row(1, 3, answer),
    "task instruct.system": Row(None, "Be brief.", checked, part="shown"),
    "task instruct.train_on": Row("all", "last", checked, part="train",
                                  also={"data.train": "turns.jsonl"}),
    "task instruct.template": Row(None, TEMPLATE, checked, part="shown"),
    "task language_modeling.max_length": Row(None, 12, checked, LM, part="train"),
    "task language_modeling.overlap": Row(1, 4, checked, LM, {"task.max_length": 12},
                                          part="train"),
    "task language_modeling.max_new_tokens": Row(1, 3, answer, LM),
    **{f"task {recipe['task']['name']}.{name}": replace(row, recipe=recipe)
       for recipe in (PAIRS, SEVERAL_CLASSES, NUMBER, RANK) for name, row in READ.items()},
    "task masked_language_modeling.max_length": Row(None, 12, checked, FILL, part="train"),
    "task masked_language_modeling.masking": Row("token", "whole_word", checked, FILL,
                                                 part="train"),
    "task masked_language_modeling.share": Row(0.15, 0.5, checked, FILL, part="train"),
    "task masked_language_modeling.masked": Row(0.8, 0.2, result, FILL),
    "task masked_language_modeling.random": Row(0.0, 0.2, result, FILL),
    "task multi_label.labels": Row(None, ["late", "early", "good", "bad"], record, SEVERAL_CLASSES,
                                   part="task"),
    "task multi_label.threshold": Row(0.01, 0.99, metrics, SEVERAL_CLASSES, part="metrics"),
    "task classification.labels": Row(None, ["good", "bad"], record, CLASS, part="task"),
    "task embedding.max_length": Row(None, 8, checked, EMBED, part="cut"),
    "objective in_batch_negatives.scale": Row(
        20.0, 5.0, result, EMBED | {"objective": {"name": "in_batch_negatives"}}),
    "objective distillation.teacher": Row("tiny-llama-5", "tiny-llama-6", result, TAUGHT),
    "objective distillation.temperature": Row(1.0, 4.0, result, TAUGHT),
    "objective distillation.weight": Row(0.2, 0.9, result, TAUGHT),
    "objective distillation.hidden": Row(0.0, 1.0, result, TAUGHT),
    "objective class_distillation.teacher": Row("runs/5", "runs/6", result, TAUGHT_CLASSES),
    "objective class_distillation.temperature": Row(1.0, 4.0, result, TAUGHT_CLASSES),
    "objective class_distillation.weight": Row(0.2, 0.9, result, TAUGHT_CLASSES),
    "objective score_order.scale": Row(20.0, 5.0, result, ORDER),
    "task extraction.max_length": Row(None, 24, checked, ASK, {"task.stride": 2}, part="train"),
    "task extraction.stride": Row(2, 8, checked, ASK, {"task.max_length": 24}, part="train"),
    "task extraction.max_answer_length": Row(1, 9, replies, ASK, {"task.no_answer_threshold": 1e6}),
    "task extraction.no_answer_threshold": Row(-1e6, 1e6, replies, ASK),
    "task seq2seq.prefix": Row("", "To German: ", checked, WRITE, part="shown"),
    "task seq2seq.max_source_length": Row(None, 8, checked, WRITE, part="cut"),
    "task seq2seq.max_target_length": Row(None, 6, checked, WRITE, part="cut"),
    "task seq2seq.source_language": Row(None, "en", refusal, WRITE),
    "task seq2seq.target_language": Row(None, "de", refusal, WRITE),
    "task seq2seq.max_new_tokens": Row(1, 3, answer, WRITE),
    "task seq2seq.beams": Row(1, 4, generated_with, WRITE),
    "task seq2seq.bleu_words": Row("13a", "char", scores, WRITE),
    "task multitask.members": Row({"first": LATE}, {"first": LATE, "late": LATE}, checked,
                                  SEVERAL_TASKS, part="trainable_parameters"),
    "task multitask.mixing": Row("proportion", "weights", checked, SEVERAL_TASKS,
                                 part="remarks"),
    "task multitask.temperature": Row(1.0, 9.0, checked, SEVERAL_TASKS,
                                      {"task.mixing": "temperature"}, part="remarks"),
    "task multitask.replay": Row(0.0, 0.8, checked, SEVERAL_TASKS,
                                 {"task.members.late.begin": 0.5}, part="remarks"),
    "task multitask.members.late.task": Row(
        "classification", {"name": "classification", "labels": ["good", "bad"]}, record,
        SEVERAL_TASKS, part="task"),
    "task multitask.members.late.data": Row(
        LATE["data"], LATE["data"] | {"test": 0.4}, checked, SEVERAL_TASKS, part="test"),
    "task multitask.members.late.weight": Row(1.0, 5.0, checked, SEVERAL_TASKS,
                                              {"task.mixing": "weights"}, part="remarks"),
    "task multitask.members.late.begin": Row(0.0, 0.5, checked, SEVERAL_TASKS, part="remarks"),
    "task multitask.members.late.ramp": Row(0.0, 0.6, checked, SEVERAL_TASKS,
                                            {"task.members.late.begin": 0.2}, part="remarks"),
    "task multitask.members.late.metric": Row(None, "brier", checked, SEVERAL_TASKS,
                                              part="members"),
    "task tagging.scheme": Row("bio", "iobes", checked, TAG, part="parameters"),
    "task tagging.labels": Row(None, ["THING", "PLACE"], record, TAG, part="task"),
    "task tagging.max_length": Row(None, 20, checked, TAG, {"task.overlap": 2}, part="train"),
    "task tagging.overlap": Row(2, 8, checked, TAG, {"task.max_length": 20}, part="train"),
    # techniques
    "technique full.embeddings": Row(True, False, checked, FULL | {"technique": {"name": "full"}},
                                     part="trainable_parameters"),
    "technique full.layer_decay": Row(1.0, 0.5, result,
                                      FULL | {"technique": {"name": "full"}}),
    "technique full.gradual": Row(0.0, 0.9, result, FULL | {"technique": {"name": "full"}}),
    "technique layers.gradual": Row(0.0, 0.9, result, LAYERS, {"technique.last": 2}),
    "technique layers.last": Row(1, 2, checked, LAYERS, part="trainable_parameters"),
    "technique layers.layers": Row([0], [1], record,
                                   INSTRUCT | {"technique": {"name": "layers"}},
                                   part="initial_digest"),
    "technique layers.names": Row(["layers.0"], ["layers.1"], record,
                                  INSTRUCT | {"technique": {"name": "layers"}},
                                  part="initial_digest"),
    "technique layers.find": Row("spectrum", "fisher", said, FOUND),
    "technique layers.count": Row(1, 2, checked, FOUND, {"technique.find": "spectrum"},
                                  part="trainable_parameters"),
    "technique layers.records": Row(8, 16, said, FOUND, {"technique.find": "gradient"}),
    "technique layers.only": Row("all", "norms", checked, LAYERS, part="trainable_parameters"),
    "technique layers.final_norm": Row(True, False, checked, LAYERS, part="trainable_parameters"),
    "technique layers.output": Row(True, False, checked, LAYERS, part="trainable_parameters"),
    "technique lora.rank": Row(2, 4, checked, part="trainable_parameters"),
    "technique lora.alpha": Row(4, 16, result),
    "technique lora.dropout": Row(0.0, 0.5, result),
    "technique lora.targets": Row("all-linear", ["q_proj"], checked, part="trainable_parameters"),
    "technique lora.bias": Row("none", "all", checked, INSTRUCT | {"model": "gpt2"},
                               part="trainable_parameters"),
    "technique lora.rank_stabilized": Row(False, True, result),
    "technique lora.dora": Row(False, True, checked, part="trainable_parameters"),
    "technique lora.initial": Row("zero", "pissa", record, part="initial_digest"),
    "technique lora.b_rate": Row(1.0, 16.0, result),
    "technique lora.new_tokens": Row(
        False, True, checked, INSTRUCT | {"surgery": [{"name": "vocabulary", "add": ["zebra"]}]},
        part="trainable_parameters"),
    "technique vera.rank": Row(8, 16, checked, VERA, part="trainable_parameters"),
    "technique vera.start": Row(0.1, 0.5, record, VERA, part="initial_digest"),
    "technique vera.dropout": Row(0.0, 0.5, result, VERA),
    "technique vera.targets": Row("all-linear", ["q_proj"], checked, VERA,
                                  part="trainable_parameters"),
    "technique ia3.targets": Row("auto", ["q_proj"], checked, IA3, part="trainable_parameters"),
    "technique oft.block_size": Row(4, 8, checked, OFT, part="trainable_parameters"),
    "technique oft.shared": Row(False, True, checked, OFT, part="trainable_parameters"),
    "technique oft.targets": Row("all-linear", ["q_proj"], checked, OFT,
                                 part="trainable_parameters"),
    "technique boft.block_size": Row(4, 8, checked, BOFT, part="trainable_parameters"),
    "technique boft.factors": Row(1, 2, refusal, BOFT),
    "technique boft.dropout": Row(0.0, 0.5, result, BOFT),
    "technique boft.targets": Row("all-linear", ["q_proj"], checked, BOFT,
                                  part="trainable_parameters"),
    "technique adalora.rank": Row(1, 3, result, ADALORA),
    "technique adalora.start_rank": Row(4, 6, checked, ADALORA, part="trainable_parameters"),
    "technique adalora.alpha": Row(4, 16, result, ADALORA),
    "technique adalora.dropout": Row(0.0, 0.5, result, ADALORA),
    "technique adalora.targets": Row("all-linear", ["q_proj"], checked, ADALORA,
                                     part="trainable_parameters"),
    "technique adalora.warmup": Row(0.0, 0.45, result, ADALORA),
    "technique adalora.settle": Row(0.0, 0.5, result, ADALORA),
    "technique adalora.every": Row(1, 100, result, ADALORA),
    "technique adalora.orthogonal": Row(0.0, 0.5, result, ADALORA),
    "technique galore.rank": Row(4, 8, result, GALORE),
    "technique galore.every": Row(1, 100, result, GALORE),
    "technique galore.scale": Row(0.25, 1.0, result, GALORE),
    "technique galore.embeddings": Row(True, False, checked, GALORE,
                                       part="trainable_parameters"),
    "technique lisa.layers": Row(1, 2, result, LISA),
    "technique lisa.every": Row(1, 100, result, LISA),
    "technique lisa.embeddings": Row(True, False, checked, LISA, part="trainable_parameters"),
    "technique prompt_tuning.length": Row(2, 3, checked, PROMPT, part="trainable_parameters"),
    "technique prompt_tuning.text": Row(None, "Say", record, PROMPT, part="initial_digest"),
    "technique p_tuning.length": Row(2, 3, checked, P_TUNING, part="trainable_parameters"),
    "technique p_tuning.network": Row("mlp", "lstm", checked, P_TUNING,
                                      part="trainable_parameters"),
    "technique p_tuning.hidden": Row(4, 8, checked, P_TUNING, part="trainable_parameters"),
    "technique prefix_tuning.length": Row(2, 3, checked, PREFIX, part="trainable_parameters"),
    "technique prefix_tuning.hidden": Row(None, 8, checked, PREFIX, part="trainable_parameters"),
    "technique repurpose.pooling": Row("mean", "cls", result, REPURPOSE),
    "technique repurpose.head": Row("logistic", "ridge", result, REPURPOSE),
    "technique repurpose.layer": Row(-1, 0, result, REPURPOSE),
    "technique repurpose.width": Row(4, 8, checked, REPURPOSE, {"technique.head": "mlp"},
                                     part="trainable_parameters"),
    "technique repurpose.strength": Row(0.01, 100.0, result, REPURPOSE),
    # operations
    "operation drop.layers": Row([0], [1], record, FULL, part="initial_digest"),
    "operation duplicate.layers": Row([0], [1], record, FULL, part="initial_digest"),
    "operation duplicate.every": Row(1, 2, checked, part="parameters"),
    "operation duplicate.overlap": Row(0, 1, checked, part="parameters"),
    "operation duplicate.zero": Row(False, True, record, FULL, {"every": 1},
                                    part="initial_digest"),
    "operation vocabulary.add": Row(["zebra"], ["zebra", "giraffe"], checked, part="parameters"),
    "operation vocabulary.special": Row([], ["<x>"], checked, also={"add": ["zebra"]},
                                        part="parameters"),
    "operation vocabulary.pad": Row(None, "<p>", checked, also={"add": ["zebra"]},
                                    part="parameters"),
    "operation vocabulary.initial": Row("pieces", "mean", record, FULL, {"add": ["zebra"]},
                                        part="initial_digest"),
    "operation vocabulary.multiple_of": Row(1, 64, checked, also={"add": ["zebra"]},
                                            part="parameters"),
    "operation context.length": Row(256, 512, result, also={"scaling": "linear"}),
    "operation context.scaling": Row("linear", "ntk", result, also={"length": 256}),
    "operation dropout.rate": Row(0.0, 0.5, result, FULL | {"model": "gpt2"}),
    "operation dropout.rates": Row({"resid_pdrop": 0.0}, {"resid_pdrop": 0.5}, result,
                                   FULL | {"model": "gpt2"}),
    "operation heads.keep": Row(2, 4, refusal),
    "operation width.size": Row(16, 24, checked, part="parameters"),
    "operation attention.implementation": Row("eager", "sdpa", operated),
    "operation freeze.names": Row(["layers.0"], ["layers.1"], record, FULL,
                                  part="initial_digest"),
    "operation unfreeze.names": Row(["embed_tokens"], ["layers.0"], record, LAYERS,
                                    part="initial_digest"),
    "operation text_head.pooling": Row("mean", "max", result, CLASS),
    "operation text_head.width": Row(0, 8, checked, CLASS, part="trainable_parameters"),
    "operation text_head.dropout": Row(0.0, 0.5, result, CLASS, {"pooling": "mean"}),
    "operation text_head.initial": Row("zero", "random", record, CLASS, part="initial_digest"),
    # retainers
    "retainer replay.data": Row(["older.jsonl"], ["old.jsonl"], result, also={"share": 0.3}),
    "retainer replay.read_as": Row("task", "text", refused_data, also={"data": ["train.jsonl"]}),
    "retainer replay.generated": Row(2, 20, steps, also={"length": 8, "share": 0.9}),
    "retainer replay.length": Row(8, 12, result, also={"generated": 4, "share": 0.9}),
    "retainer replay.share": Row(0.2, 0.5, steps, also={"data": ["older.jsonl"]}),
    "retainer kl.weight": Row(0.1, 10.0, result),
    "retainer kl.temperature": Row(1.0, 4.0, result, also={"weight": 10.0}),
    "retainer l2_sp.strength": Row(0.1, 100.0, result),
    "retainer l2_sp.new": Row(0.0, 100.0, result, CLASS),
    "retainer ewc.data": Row(["train.jsonl"], ["old.jsonl"], result, FULL, {"strength": 1e4}),
    "retainer ewc.read_as": Row("task", "text", refused_data, also={"data": ["train.jsonl"]}),
    "retainer ewc.generated": Row(2, 4, result, FULL, {"length": 8, "strength": 1e4}),
    "retainer ewc.length": Row(8, 12, result, FULL, {"generated": 2, "strength": 1e4}),
    "retainer ewc.strength": Row(1.0, 1e4, result, FULL, {"generated": 2, "length": 8}),
    "retainer interpolate.shares": Row([0.5], [1.0], result),
    "retainer interpolate.keep": Row(0.01, 1.0, result, {**INSTRUCT, "training": STEADY},
                                     {"shares": [0.05, 1.0]}),
}  # fmt: skip


def every_option() -> Iterator[str]:
    """Name every option that there is, as the table does."""
    yield from Recipe.model_fields
    for section, model in (
        ("data", DataOptions),
        ("base", BaseOptions),
        ("training", TrainingOptions),
        ("evaluation", EvaluationOptions),
    ):
        yield from (f"{section}.{name}" for name in model.model_fields)
    for registry in (TASKS, TECHNIQUES, OBJECTIVES, OPERATIONS, RETAINERS):
        for member in registry:
            for name in member.Options.model_fields:
                yield f"{registry.kind} {member.name}.{name}"
    yield from (f"task multitask.members.late.{name}" for name in Member.model_fields)


def test_the_table_has_a_row_for_every_option_and_no_other() -> None:
    assert sorted(TABLE) == sorted(every_option())


@pytest.fixture(scope="module")
def folder(_no_report: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    for name, rows in FILES.items():
        (folder / name).write_text(lines(rows))
    for seed in (5, 6):  # teachers
        tiny_model_folder(folder, "llama", seed=seed)
        recipe = CLASS | {"model": str(tiny_model_folder(folder, "bert", seed=seed)),
                          "data": {"train": str(folder / "class.jsonl")}}  # fmt: skip
        api.train(recipe, runs_dir=folder / "runs", name=str(seed), console=SILENT)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _no_report() -> Iterator[None]:
    """A report and reading the result back take longer than all else; no option speaks of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunesmith.runs.result.verify_saved", lambda *given: 0.0)
        patch.setattr("tunesmith.runs.train.write_report", lambda path: None)
        yield


@pytest.mark.parametrize("option", TABLE)
def test_the_option_changes_what_a_user_sees(
    option: str, folder: Path, tmp_path: Path, tiny: Callable[[str], Path], monkeypatch
) -> None:
    monkeypatch.chdir(folder)
    row = TABLE[option]
    place = option.split(" ")[-1] if " " not in option else _in_section(option)
    section, _, name = place.partition(".")
    seen = []
    for value in (row.one, row.other):
        changes = {**row.also, place: value}
        if section in LISTED:
            member = option.split(" ")[1].partition(".")[0]
            changes = {LISTED[section]: [{"name": member, **row.also, name: value}]}
        recipe = put(row.recipe, changes)
        recipe["model"] = str(tiny(recipe["model"]))
        found = row.shows(recipe, tmp_path / str(len(seen)))
        if isinstance(found, dict):
            found = found[row.part]
        seen.append(found)
    assert seen[0] != seen[1]


def _in_section(option: str) -> str:
    """Turn `technique lora.rank` into `technique.rank`."""
    section, _, member = option.partition(" ")
    return f"{section}.{member.partition('.')[2]}"
