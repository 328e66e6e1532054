"""Every technique on every task with every kind of model: it trains, or is refused with a reason.

What trained changed only what the technique names, and its saved model, loaded by the ecosystem's
own reader without Tunesmith, gives the log-likelihood and the answers that Tunesmith says.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pyarrow import parquet
from safetensors.torch import load_file
from seqeval.metrics.sequence_labeling import get_entities
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
    WORDS,
    Said,
    lines,
    recipe,
)
from tests.tiny import ENCODER_DECODERS, ENCODERS, LAYERS, tiny_config
from torch import Tensor
from transformers.models.auto import modeling_auto

from tunesmith.cli.contracts.answers import ChatDocument, PredictDocument
from tunesmith.cli.contracts.check import CheckDocument
from tunesmith.cli.contracts.files import ReportDocument
from tunesmith.cli.contracts.outcome import EvaluateDocument, TrainDocument
from tunesmith.registry import TASKS, TECHNIQUES

FAMILIES = ("llama", "gpt2", "bert")
OPTIONS = {
    "lora": "{name: lora, rank: 2}",
    "layers": "{name: layers, last: 1}",
    "galore": "{name: galore, rank: 4}",
}
ROWS = {
    "instruct": ANSWERS,
    "language_modeling": TEXTS,
    "classification": CLASSES,
    "tagging": TAGGED,
    "extraction": ASKED,
    "embedding": RELATED,
    "masked_language_modeling": TEXTS,
    "multi_label": SEVERAL,
    "regression": NUMBERS,
    "reranking": RANKED,
    "seq2seq": TRANSLATED,
}
MEMBERS = {
    "decoder": {"mood": "classification", "chat": "instruct"},
    "encoder": {"mood": "classification", "names": "tagging"},
    "encoder-decoder": {"there": "seq2seq", "back": "seq2seq"},
}
"""The tasks that a model of each kind learns at once."""
TASK = {
    "seq2seq": "{name: seq2seq, max_new_tokens: 4}",
    "instruct": "{name: instruct, max_new_tokens: 4}",
    "language_modeling": "{name: language_modeling, max_new_tokens: 4}",
}
TRAINING = "{max_steps: 3, batch_size: 4, learning_rate: 0.02, schedule: constant, warmup: 0}"
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|block)\.(\d+)\.")
_FIXED = {
    "bart": re.compile("final_logits_bias"),  # saved, but no parameter
    "marian": re.compile(r"final_logits_bias|embed_positions\."),  # computed positions
}
_BEHIND = re.compile(r"(?:^|\.)(?:(?:final_layer_?)?norm|ln_f|pooler|score|vocab_layer_norm)\.")
QUESTION, WHOM = "Say horse lamp", "Whom?"
TAGS = ("O", "B-THING", "I-THING")
ENDINGS = {
    "classification": "ForSequenceClassification",
    "masked_language_modeling": "ForMaskedLM",
    "multi_label": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "reranking": "ForSequenceClassification",
    "tagging": "ForTokenClassification",
    "extraction": "ForQuestionAnswering",
}

REFUSED = (
    {
        (technique, task, "bert"): "is an encoder (bert): it reads text and writes none"
        for technique, task in itertools.product(
            TECHNIQUES.names(), ("instruct", "language_modeling")
        )
    }
    | {
        ("repurpose", task, family): f"'repurpose' does not suit the task '{task}'"
        for task, family in itertools.product(("instruct", "language_modeling"), ("llama", "gpt2"))
    }
    | {
        ("repurpose", task, family): "'repurpose' does not suit the task"
        for task, family in itertools.product(("tagging", "extraction", "embedding"), FAMILIES)
    }
    | {
        (technique, "extraction", "llama"): "calls the body by another name"
        for technique in TECHNIQUES.names()
    }
    | {("repurpose", "masked_language_modeling", "bert"): "'repurpose' does not suit the task"}
    | {
        (technique, "masked_language_modeling", "bert"): "virtual tokens need a model of PEFT's"
        for technique in ("prompt_tuning", "p_tuning", "prefix_tuning")
    }
    | {("full", "masked_language_modeling", "llama"): "is a decoder (llama)"}
)
SAMPLED = {  # adapters that share the path of lora: every family of them is tested apart
    "vera": {("instruct", "llama")},
    "ia3": {("classification", "bert")},
    "oft": {("language_modeling", "llama")},
    "boft": {("classification", "bert")},
    "adalora": {("instruct", "llama"), ("classification", "bert")},
    "prompt_tuning": {("instruct", "llama"), ("classification", "bert"), ("extraction", "bert")},
    "p_tuning": {("language_modeling", "gpt2")},
    "prefix_tuning": {("instruct", "gpt2"), ("classification", "bert")},
}
WHOLE = {  # techniques that share the path of full
    "galore": {("instruct", "llama"), ("classification", "bert")},
    "lisa": {("language_modeling", "gpt2"), ("classification", "bert")},
}
SAMPLED_TASKS = {  # tasks that share the path of another: every head is tested apart
    "masked_language_modeling": {("full", "bert"), ("layers", "bert"), ("lora", "bert")},
    "multi_label": {("full", "bert"), ("lora", "llama"), ("repurpose", "bert")},
    "regression": {("lora", "bert"), ("full", "gpt2"), ("repurpose", "gpt2")},
    "reranking": {("full", "bert"), ("layers", "llama"), ("repurpose", "bert")},
    "multitask": {("full", "gpt2"), ("layers", "bert"), ("lora", "bert"), ("lora", "llama"),
                  ("adalora", "llama"), ("repurpose", "bert"), ("prompt_tuning", "llama")},
}  # fmt: skip
REFUSED |= (
    {
        (technique, "seq2seq", "t5"): "virtual tokens stand before one text"
        for technique in ("prompt_tuning", "p_tuning", "prefix_tuning")
    }
    | {
        ("lora", task, "t5"): "is an encoder-decoder (t5): it reads a text and writes another"
        for task in TASKS.names()
        if task not in ("seq2seq", "multitask")
    }
    | {
        ("repurpose", "multitask", "bert"): "there is nothing that several tasks would share",
        ("prompt_tuning", "multitask", "llama"): "stand before the texts of one task",
        ("repurpose", "seq2seq", "t5"): "'repurpose' does not suit the task 'seq2seq'",
        ("lora", "seq2seq", "bert"): "is an encoder (bert): it reads text and writes none",
    }
)
PAIRED = {(name, "t5") for name in TECHNIQUES.names()} | {("full", "gpt2"), ("lora", "llama")}
ADAPTERS = {"lora", *SAMPLED}
ALL = [
    cell
    for cell in itertools.product(TECHNIQUES.names(), TASKS.names(), FAMILIES)
    if cell[1] != "seq2seq"
    and (cell[0] not in WHOLE or cell[1:] in WHOLE[cell[0]])
    and (cell[0] not in SAMPLED or cell[1:] in SAMPLED[cell[0]] or cell[1] == "multitask")
    and (cell[1] not in SAMPLED_TASKS or (cell[0], cell[2]) in SAMPLED_TASKS[cell[1]])
]
ALL += [("lora", "multitask", "t5")]
ALL += [(technique, "seq2seq", family) for technique, family in sorted(PAIRED)]
TRAINED = [cell for cell in ALL if cell not in REFUSED]


@dataclass(frozen=True)
class Finished:
    """A run, how it was made, and what the command printed."""

    technique: str
    task: str
    family: str
    base: Path
    run: Path
    out: str
    member: str = ""

    @property
    def model(self) -> Path:
        return self.run / "model" / self.member

    @property
    def asking(self) -> tuple[str, ...]:
        """What `predict` is given beside the texts."""
        return ("--as", self.member, "--json") if self.member else ("--json",)

    @property
    def tested(self) -> dict[str, Any]:
        """The first test record (of the member), and what it scored."""
        rows = parquet.read_table(self.run / "evaluation/predictions.parquet").to_pylist()
        if not self.member:
            return rows[0]
        mark = f"[{self.member}] "
        first = next(row for row in rows if row["prompt"].startswith(mark))
        own = {key.replace(f"_{self.member}/", "_"): value for key, value in first.items()}
        return own | {"prompt": first["prompt"].removeprefix(mark)}


def members_of(family: str) -> dict[str, str]:
    """Return the tasks that a model of this family learns at once, by name."""
    kind = "encoder" if family in ENCODERS else "decoder"
    return MEMBERS["encoder-decoder" if family in ENCODER_DECODERS else kind]


def lay_out(here: Path, technique: str, task: str, model: Path, family: str = "") -> None:
    if task == "multitask":
        lay_out_members(here, technique, model, members_of(family))
        return
    (here / "train.jsonl").write_text(lines(ROWS[task]))
    (here / "recipe.yaml").write_text(
        recipe(
            model=model,
            task=TASK.get(task, task),
            technique=OPTIONS.get(technique, technique),
            training=TRAINING,
        )
    )


def lay_out_members(here: Path, technique: str, model: Path, members: dict[str, str]) -> None:
    """Write a recipe of several tasks, and the records of each."""
    for name, task in members.items():
        (here / f"{name}.jsonl").write_text(lines(ROWS[task]))
    listed = ", ".join(
        f"{name}: {{task: {TASK.get(task, task)}, data: {{train: {name}.jsonl}}}}"
        for name, task in members.items()
    )
    whole = recipe(
        model=model,
        task=f"{{name: multitask, mixing: weights, members: {{{listed}}}}}",
        technique=OPTIONS.get(technique, technique),
        training=TRAINING.replace("batch_size: 4", "batch_size: 8"),
    )
    (here / "recipe.yaml").write_text(whole.replace("data: {train: train.jsonl}\n", ""))


@pytest.fixture
def train(here: Path, command: Callable, tiny: Callable[[str], Path], monkeypatch) -> Callable:
    """Train one cell; its report is left out, it takes longer than all else."""
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)

    def run(technique: str, task: str, family: str, *changes: str, name: str = "cell") -> Finished:
        lay_out(here, technique, task, tiny(based_on(task, family)), family)
        options = [word for change in changes for word in ("--set", change)]
        said = command("train", "recipe.yaml", "--name", name, "--json", *options)
        assert said.code == 0, said.err
        base = tiny(based_on(task, family))
        return Finished(technique, task, family, base, here / "runs" / name, said.out)

    return run


def based_on(task: str, family: str) -> str:
    """Return which tiny model a cell begins with: to fill in words it must have learnt that."""
    fills_in = task == "masked_language_modeling" and family in ENCODERS
    return f"masked-{family}" if fills_in else family


def test_every_technique_and_task_has_its_row() -> None:
    assert {*ROWS, "multitask"} == set(TASKS.names())
    assert set(EXPECTED) == set(TECHNIQUES.names())


@pytest.mark.parametrize(("technique", "task", "family"), REFUSED)
def test_what_does_not_go_together_is_refused_before_training(
    here, command, tiny, technique, task, family
) -> None:
    lay_out(here, technique, task, tiny(family), family)
    said = command("train", "recipe.yaml", "--json")
    assert said.code == 2
    assert REFUSED[technique, task, family] in said.document["error"]["what"]
    assert not (here / "runs").exists()


@pytest.mark.parametrize(("technique", "task", "family"), TRAINED)
def test_it_trains_changes_what_it_should_and_others_read_it(
    train, command, technique, task, family
) -> None:
    check(train(technique, task, family), command)


def check(cell: Finished, command: Callable[..., Said]) -> None:
    """Check what a finished cell changed, and that its model does with others what it does here."""
    if cell.task == "multitask":
        for name, task in members_of(cell.family).items():
            check(replace(cell, task=task, member=name), command)
        return
    document = TrainDocument.model_validate_json(cell.out)
    assert document.tokens > 0
    assert EXPECTED[cell.technique](cell)

    model, tokenizer = read(cell)
    if cell.task in SAMPLED_TASKS:
        assert says_of_texts_what_others_read(cell, model, tokenizer, command)
        return
    tested = cell.tested
    if cell.task != "embedding":
        theirs = log_likelihood(cell, model, tokenizer, tested)
        assert theirs == pytest.approx(tested["after_log_likelihood"], abs=2e-4)
        assert tested["after_log_likelihood"] != tested["before_log_likelihood"]

    asked = f"{WHOM}\n{QUESTION}" if cell.task == "extraction" else QUESTION
    said = command("predict", "cell", asked, *cell.asking)
    [prediction] = PredictDocument.model_validate(said.document).predictions
    if cell.task == "classification":
        shares = logits(cell, model, tokenizer, QUESTION).softmax(-1).tolist()
        assert list(prediction.probabilities.values()) == pytest.approx(shares, abs=1e-4)
    elif cell.task == "embedding":
        vector = model.encode(QUESTION, normalize_embeddings=True)
        assert prediction.vector == pytest.approx(vector.tolist(), abs=1e-5)
    elif cell.task == "extraction":
        start, end = pointed(cell, model, tokenizer, WHOM, QUESTION)
        expected = without_spaces(*best_span(start, end, len(QUESTION)))
        assert [(span.start, span.end) for span in prediction.spans] == expected
    elif cell.task == "tagging":
        said = tag_logits(cell, model, tokenizer, QUESTION).argmax(-1)
        assert [(s.text.split()[0], s.label) for s in prediction.spans] == [
            (QUESTION.split()[start], label)
            for label, start, _ in get_entities([TAGS[place] for place in said])
        ]
    else:
        assert prediction.text == continuation(cell, model, tokenizer, QUESTION)


# What changes


def prefix_of(family: str) -> str:
    """Return what the names of a family's body begin with where there is a head beside it."""
    name = str(modeling_auto.MODEL_MAPPING_NAMES[tiny_config(family).model_type])
    return str(getattr(transformers, name).base_model_prefix)


def weights(cell: Finished) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights before and after that are in both, by their name within the body."""
    body = re.compile(rf"^{prefix_of(cell.family)}\.")
    before, after = (
        {body.sub("", name): tensor for name, tensor in load_file(file).items()}
        for file in (cell.base / "model.safetensors", cell.model / "model.safetensors")
    )
    return before, {name: after[name] for name in before if name in after}


def changed(cell: Finished) -> set[str]:
    before, after = weights(cell)
    return {name for name in after if not torch.equal(before[name], after[name])}


def can_learn(cell: Finished, names: Iterable[str]) -> set[str]:
    """Return those of the saved tensors that are parameters and read by the task."""
    fixed = _FIXED.get(cell.family, _FIXED["bart"])
    unread = "pooler." if cell.task == "embedding" else "-"
    return {name for name in names if not fixed.search(name) and not name.startswith(unread)}


def all_change(cell: Finished) -> bool:
    before, after = weights(cell)
    lost = set(before) - set(after)  # a head takes the place of vocabulary layer or pooler
    return changed(cell) == can_learn(cell, after) and all(
        name.startswith(("lm_head.", "embed_out.", "pooler.")) for name in lost
    )


def only_the_last_layer_changes(cell: Finished) -> bool:
    found = changed(cell)
    return bool(found) and all(
        int(layer[1]) == LAYERS - 1 if (layer := _LAYER.search(name)) else _BEHIND.search(name)
        for name in found
    )


def only_adapters_are_saved(cell: Finished) -> bool:
    saved = load_file(cell.model / "adapter_model.safetensors")
    own = ("lora_A", "lora_B", "lora_E", "vera_", "ia3_l", "oft_R", "prompt_embeddings")
    own += ("boft_s", "ranknum")
    allowed = (*own, "score", "classifier", "pooler", "qa_outputs")
    return all(any(word in name for word in allowed) for name in saved) and any(
        bool(tensor.any()) for name, tensor in saved.items() if any(word in name for word in own)
    )


def only_the_linear_map_changes(cell: Finished) -> bool:
    before, after = weights(cell)
    dense = load_file(cell.model / "2_Dense" / "model.safetensors")
    whole = set(before) - set(after) <= {"lm_head.weight", "embed_out.weight"}
    return whole and not changed(cell) and bool(dense["linear.weight"].any())


def whole_layers_change(cell: Finished) -> bool:
    """Of those that were drawn everything, of the others nothing; all else always."""
    moved, (_, after) = changed(cell), weights(cell)
    layers: dict[str, set[bool]] = {}
    for name in can_learn(cell, after):
        found = _LAYER.search(name)
        layers.setdefault(name[: found.end()] if found else "", set()).add(name in moved)
    return layers.pop("") == {True} and all(len(seen) == 1 for seen in layers.values())


EXPECTED: dict[str, Callable[[Finished], bool]] = {
    **dict.fromkeys(("full", "galore"), all_change),
    "lisa": whole_layers_change,
    "layers": only_the_last_layer_changes,
    **dict.fromkeys(ADAPTERS, only_adapters_are_saved),
    "repurpose": only_the_linear_map_changes,
}


# What others read


def read(cell: Finished) -> tuple[Any, Any]:
    """Load the saved model with the reader of its ecosystem, and the tokenizer beside it."""
    import peft

    tokenizer = transformers.AutoTokenizer.from_pretrained(cell.model)
    if cell.technique == "repurpose" or cell.task == "embedding":
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(cell.model), device="cpu"), tokenizer
    ending = ENDINGS.get(cell.task, "ForCausalLM")
    if cell.family in ENCODER_DECODERS:
        ending = "ForSeq2SeqLM"
    if cell.technique in ADAPTERS:
        counts = {"classification": 2, "tagging": len(TAGS), "multi_label": 3}
        counts |= {"regression": 1, "reranking": 1}
        options = {"num_labels": counts[cell.task]} if cell.task in counts else {}
        reader = getattr(peft, f"AutoPeftModel{ending}", peft.AutoPeftModel)
        return reader.from_pretrained(cell.model, **options).eval(), tokenizer
    return getattr(transformers, f"AutoModel{ending}").from_pretrained(cell.model).eval(), tokenizer


@torch.no_grad()
def logits(cell: Finished, model: Any, tokenizer: Any, *texts: str) -> Tensor:
    """Return the logits of the classes of a text, or of two."""
    if cell.technique == "repurpose":
        return model.encode([texts[0] if len(texts) == 1 else texts], convert_to_tensor=True)[0]
    return model(**tokenizer(*texts, return_tensors="pt", return_token_type_ids=False)).logits[0]


def says_of_texts_what_others_read(
    cell: Finished, model: Any, tokenizer: Any, command: Callable
) -> bool:
    """Compare the classes, the number or the ranking that is predicted with the reader's logits."""
    if cell.task == "masked_language_modeling":
        return fills_in_as_others_do(model, tokenizer, command)
    documents = ["near the river", "no one knows"]
    given = {"query": QUESTION, "documents": documents} if cell.task == "reranking" else QUESTION
    Path("asked.jsonl").write_text(json.dumps(given) + "\n")
    said = command("predict", "cell", "--file", "asked.jsonl", "--json")
    [found] = PredictDocument.model_validate(said.document).predictions
    if cell.task == "regression":
        expected = float(logits(cell, model, tokenizer, QUESTION))
        return found.score == pytest.approx(expected, abs=1e-4)
    if cell.task == "multi_label":
        shares = logits(cell, model, tokenizer, QUESTION).sigmoid().tolist()
        return list(found.probabilities.values()) == pytest.approx(shares, abs=1e-4)
    pairs = [(QUESTION, d) if cell.family in ENCODERS else (f"{QUESTION}\n{d}",) for d in documents]
    shares = [float(logits(cell, model, tokenizer, *pair).sigmoid()) for pair in pairs]
    return [ranked.relevance for ranked in found.ranking] == pytest.approx(
        sorted(shares, reverse=True), abs=1e-4
    )


@torch.no_grad()
def fills_in_as_others_do(model: Any, tokenizer: Any, command: Callable) -> bool:
    """Compare the likeliest word for a gap with that of the reader."""
    asked = f"Say {tokenizer.mask_token} lamp"
    said = command("predict", "cell", asked, "--json")
    [found] = PredictDocument.model_validate(said.document).predictions
    given = tokenizer(asked, return_tensors="pt", return_token_type_ids=False)
    place = given["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    shares = model(**given).logits[0, place].softmax(-1)
    return max(found.probabilities.values()) == pytest.approx(float(shares.max()), abs=1e-4)


@torch.no_grad()
def tag_logits(cell: Finished, model: Any, tokenizer: Any, text: str) -> Tensor:
    """Return the logits of the tags of each word, `[words, C]`: those at its first token."""
    given = tokenizer(text, return_tensors="pt", return_token_type_ids=False,
                      return_offsets_mapping=True, return_special_tokens_mask=True)  # fmt: skip
    special = given.pop("special_tokens_mask")[0].tolist()
    starts = [start for start, _ in given.pop("offset_mapping")[0].tolist()]
    words = [match.start() for match in re.finditer(r"\S+", text)]
    rows = [
        next(i for i, at in enumerate(starts) if at == word and not special[i]) for word in words
    ]
    said = model(**given).logits[0, -given["input_ids"].shape[1] :]  # PEFT: virtual tokens, too
    return said[rows]


@torch.no_grad()
def pointed(
    cell: Finished, model: Any, tokenizer: Any, question: str, text: str
) -> tuple[Tensor, Tensor]:
    """Return the logits of beginnings and ends, a token each: question, something between, text."""
    between = {} if cell.family in ENCODERS else {"add_special_tokens": False}
    pair = (question, text) if cell.family in ENCODERS else (f"{question}\n{text}",)
    given = tokenizer(*pair, return_tensors="pt", return_token_type_ids=False, **between)
    said, length = model(**given), given["input_ids"].shape[1]
    return said.start_logits[0, -length:], said.end_logits[0, -length:]


def best_span(start: Tensor, end: Tensor, length: int) -> tuple[int, int]:
    """Return the best part of the last `length` tokens (of one character each), of at most 30."""
    first = len(start) - length - (1 if len(start) == length + len(WHOM) + 3 else 0)
    scores = {
        (i, j + 1): float(start[first + i] + end[first + j])
        for i in range(length) for j in range(i, min(i + 30, length))
    }  # fmt: skip
    return max(scores, key=lambda place: scores[place])


def without_spaces(start: int, end: int) -> list[tuple[int, int]]:
    """Return a part of the text less the spaces around it, if anything is left."""
    said = QUESTION[start:end]
    start += len(said) - len(said.lstrip())
    return [(start, start + len(said.strip()))] if said.strip() else []


@torch.no_grad()
def log_likelihood(cell: Finished, model: Any, tokenizer: Any, tested: dict[str, Any]) -> float:
    """Return the log-probability of the right answer to a test record."""
    if cell.task == "classification":
        place = ("bad", "good").index(tested["reference"])
        return float(logits(cell, model, tokenizer, tested["prompt"]).log_softmax(-1)[place])
    if cell.task == "extraction":
        question, text = tested["prompt"].split("\n\n")
        start, end = pointed(cell, model, tokenizer, question, text)
        first = (
            len(question) + (2 if cell.family in ENCODERS else 1) + text.index(tested["reference"])
        )
        last = first + len(tested["reference"]) - 1
        return float(start.log_softmax(-1)[first] + end.log_softmax(-1)[last]) / 2
    if cell.task == "tagging":
        places = [place_of_tag(word) for word in tested["prompt"].split()]
        scores = tag_logits(cell, model, tokenizer, tested["prompt"]).log_softmax(-1)
        return float(scores.gather(-1, torch.tensor(places)[:, None]).sum())
    if cell.family in ENCODER_DECODERS:
        source, labels = (tokenizer(tested[name], return_tensors="pt")["input_ids"]
                          for name in ("prompt", "reference"))  # fmt: skip
        shifted = model.prepare_decoder_input_ids_from_labels(labels)  # a loss is not asked for
        scores = model(input_ids=source, decoder_input_ids=shifted).logits[0].log_softmax(-1)
        return float(scores.gather(-1, labels[0, :, None]).sum())
    given, answer = [], tokenizer(tested["prompt"])["input_ids"]
    if cell.task in ("instruct", "seq2seq"):
        given = prompt(tokenizer, tested["prompt"].removeprefix("user: "))
        answer = tokenizer(tested["reference"])["input_ids"]
    ids = torch.tensor([[*given, *answer, tokenizer.eos_token_id]])
    # PEFT gives logits for virtual tokens, too.
    scores = model(input_ids=ids).logits[0, -ids.shape[1] :][:-1].log_softmax(-1)
    rows = scores.gather(-1, ids[0, 1:, None])[:, 0]
    return float(rows[max(len(given) - 1, 0) :].sum())


def place_of_tag(word: str) -> int:
    return 1 if word in WORDS else 2 if word == "twice" else 0


def prompt(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )


@torch.no_grad()
def continuation(cell: Finished, model: Any, tokenizer: Any, text: str) -> str:
    """Return what the model writes after a text, by the reader's own generation."""
    asked = cell.task in ("instruct", "seq2seq") and cell.family not in ENCODER_DECODERS
    given = prompt(tokenizer, text) if asked else tokenizer(text)["input_ids"]
    made = model.generate(input_ids=torch.tensor([given]), max_new_tokens=4, do_sample=False)
    first = 1 if cell.family in ENCODER_DECODERS else len(given)
    return tokenizer.decode(made[0, first:], skip_special_tokens=True)


# Documents of a finished run


def test_every_document_of_a_finished_run_is_as_promised(here, command, tiny, monkeypatch) -> None:
    lay_out(here, "lora", "instruct", tiny("llama"))
    assert CheckDocument.model_validate(command("check", "recipe.yaml", "--json").document)
    trained = TrainDocument.model_validate(command("train", "recipe.yaml", "--json").document)
    page = Path(trained.report).read_text()
    assert page.startswith("<!doctype html>")

    evaluated = EvaluateDocument.model_validate(command("evaluate", trained.run, "--json").document)
    assert evaluated.metrics.keys() == trained.metrics.keys()
    assert (evaluated.verdict, evaluated.metric) == (trained.verdict, trained.metric)
    for name in ("before", "after", "difference"):
        assert getattr(evaluated, name) == pytest.approx(getattr(trained, name), abs=1e-5)
    assert evaluated.interval == pytest.approx(trained.interval, abs=1e-5)

    reported = ReportDocument.model_validate(command("report", trained.run, "--json").document)
    assert Path(reported.report).read_text() == page
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nagain\n"))
    chatted = ChatDocument.model_validate(
        command("chat", trained.run, "--compare", "--json").document
    )
    assert [turn.user for turn in chatted.turns] == ["hello", "again"]
    assert all(turn.tuned is not None and turn.base is not None for turn in chatted.turns)


def test_other_records_are_measured_with_data(train, here, command) -> None:
    cell = train("full", "classification", "bert")
    (here / "fresh.jsonl").write_text(lines(CLASSES[:7]))
    document = EvaluateDocument.model_validate(
        command("evaluate", "cell", "--data", "fresh.jsonl", "--json").document
    )
    assert document.records == 7
    assert document.data == "fresh.jsonl"
    assert json.loads(cell.out)["records"] == 4


def test_a_run_in_bfloat16_is_measured_again_in_its_own_format(train, command) -> None:
    cell = train("lora", "instruct", "llama", "training.precision=bfloat16")
    again = EvaluateDocument.model_validate(command("evaluate", "cell", "--json").document)
    plain = train("lora", "instruct", "llama", name="plain")
    assert json.loads(cell.out)["before"] != json.loads(plain.out)["before"]
    assert again.before == pytest.approx(json.loads(cell.out)["before"], abs=1e-6)
