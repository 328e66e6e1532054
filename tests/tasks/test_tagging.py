"""Tagging: which token says what a word is, windows, and figures equal to seqeval's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from tests.tasks.plain_engine import PlainEngine
from tests.tiny import tiny_model

from tunesmith.console import Console
from tunesmith.data.batch import NO_CLASS, collate
from tunesmith.data.records import Entity, TaggedText
from tunesmith.data.tagged import of_words
from tunesmith.engine.engine import Engine
from tunesmith.errors import DataError, ModelError, RecipeError
from tunesmith.evaluation.significance import figures
from tunesmith.models.model import Model
from tunesmith.objectives.token_classes import TokenClasses
from tunesmith.tasks.tagging import Tagging

NAMED = ("PER", "LOC")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
QUIET = Console(quiet=True)


def record(text: str, *entities: tuple[int, int, str]) -> TaggedText:
    return of_words(
        text.split(), [Entity(start=start, end=end, label=label) for start, end, label in entities]
    )


RECORDS = [
    record("Ada Lovelace lived in London", (0, 2, "PER"), (4, 5, "LOC")),
    record("nothing here"),
    record("Oslo Bergen", (0, 1, "LOC"), (1, 2, "LOC")),
    record("we met Ada in a rather long sentence about the fish", (2, 3, "PER")),
]


def bound(model: Model, **options: object) -> Tagging:
    task = Tagging(Tagging.Options(labels=list(NAMED), **options))
    task.bind(model)
    return task


def tagger(family: str = "bert", **options: object) -> Model:
    return tiny_model(family, "tagging", TAGS, **options)


def test_what_is_named_is_found_in_the_training_records() -> None:
    task = Tagging()
    task.study(RECORDS)
    assert task.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    again = Tagging()
    again.load_state(task.state())
    assert again.labels == task.labels


@pytest.mark.parametrize(
    ("scheme", "letters"), [("bio", "BI"), ("iobes", "BIES"), ("bilou", "BILU")]
)
def test_the_model_learns_the_scheme_that_is_asked_for(scheme: str, letters: str) -> None:
    task = Tagging(Tagging.Options(labels=["X"], scheme=scheme))
    assert task.labels == ("O", *(f"{letter}-X" for letter in letters))
    task.bind(tagger())
    classes = task.encode(record("a b c d", (0, 3, "X"), (3, 4, "X"))).streams["text"].classes
    tags = [task.labels[c] for c in classes if c != NO_CLASS]
    first, inner, last, single = {"bio": "BIIB", "iobes": "BIES", "bilou": "BILU"}[scheme]
    assert tags == [f"{letter}-X" for letter in (first, inner, last, single)]


def test_records_without_entities_or_with_unlisted_ones_are_errors() -> None:
    with pytest.raises(DataError, match="No training record has an entity"):
        Tagging().study(RECORDS[1:2])
    with pytest.raises(DataError, match=r"'LOC', which `task.labels` does not list"):
        Tagging(Tagging.Options(labels=["PER"])).study(RECORDS)
    with pytest.raises(RecipeError, match="'PER' is listed twice"):
        Tagging(Tagging.Options(labels=["PER", "PER"]))
    with pytest.raises(DataError, match=r"test\.conll:9: The label 'ORG' is not one of those"):
        bound(tagger()).encode_all([record("Acme", (0, 1, "ORG"))], ["test.conll:9"])


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_first_token_of_each_word_carries_its_tag(family: str) -> None:
    model = tagger(family)
    stream = bound(model).encode(RECORDS[0]).streams["text"]
    assert list(stream.ids) == model.tokenizer(RECORDS[0].text)["input_ids"]
    said = [
        (model.tokenizer.decode(stream.ids[place]), TAGS[found])
        for place, found in enumerate(stream.classes)
        if found != NO_CLASS
    ]
    assert said == [("A", "B-PER"), ("L", "I-PER"), ("l", "O"), ("i", "O"), ("L", "B-LOC")]
    assert stream.trained() == 5


class MergingTokenizer:
    """A fast tokenizer whose tokens are given: where each begins and ends."""

    is_fast = True

    def __init__(self, *offsets: tuple[int, int]) -> None:
        self.offsets = offsets

    def __call__(self, text: str, **options: object) -> dict[str, list[object]]:
        places = list(range(7, 7 + len(self.offsets)))
        return {"input_ids": places, "offset_mapping": list(self.offsets),
                "special_tokens_mask": [0] * len(places)}  # fmt: skip


def test_a_word_that_shares_its_token_goes_with_the_word_before() -> None:
    # "an ox ran" in tokens "an" " ox ran": the last two words are decided together
    task = bound(tagger())
    task.bind(replace(tagger(), tokenizer=MergingTokenizer((0, 2), (2, 9))))
    text = record("an ox ran", (1, 3, "PER"))
    classes = task.encode(text).streams["text"].classes
    assert classes == (0, TAGS.index("B-PER"))
    logprobs = np.log(np.eye(5)[[0, 1]] + 1e-9)
    assert task._score(0, text, logprobs).statistics["true_positives[PER]"] == 1


def test_a_word_without_a_token_is_passed_over() -> None:
    task = bound(tagger())
    task.bind(replace(tagger(), tokenizer=MergingTokenizer((0, 2), (6, 9))))
    text = record("an ox ran", (1, 2, "PER"))
    score = task._score(0, text, np.log(np.eye(5)[[0, 0]] + 1e-9))
    assert score.statistics["words"] == 2
    assert score.statistics["false_negatives[PER]"] == 1


def test_a_long_text_becomes_windows_that_decide_each_word_once() -> None:
    task = bound(tagger(), max_length=14, overlap=6)
    text = record("one two three four five six seven eight nine", (3, 5, "LOC"))
    pieces = task.pieces(text)
    assert len(pieces) > 2
    assert [piece.continues for piece in pieces] == [False] + [True] * (len(pieces) - 1)
    assert all(piece.length <= 14 for piece in pieces)
    decided = [c for p in pieces for c in p.streams["text"].classes if c != NO_CLASS]
    whole = task.encode(text).streams["text"]
    assert decided == [c for c in whole.classes if c != NO_CLASS]
    scores = task.measure(PlainEngine(tagger()), [text], pieces, generate=0, console=QUIET)
    assert scores[0].statistics["words"] == 9


def test_windows_that_hold_nothing_new_are_refused() -> None:
    with pytest.raises(RecipeError, match="hold nothing new"):
        bound(tagger(), max_length=10, overlap=8)
    with pytest.raises(RecipeError, match="no room for text"):
        bound(replace(tagger(), anatomy=replace(tagger().anatomy, context_length=2)))
    assert bound(tagger(), max_length=10)._overlap == 4  # less than the default, which is not asked


def test_a_slow_tokenizer_is_refused() -> None:
    model = tagger()
    slow = MergingTokenizer()
    slow.is_fast = False
    with pytest.raises(ModelError, match="cannot say where in a text"):
        bound(replace(model, tokenizer=slow))


@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "gpt2"])
def test_figures_equal_those_of_seqeval_on_the_stock_model(family: str) -> None:
    model = tagger(family)
    task = bound(model)
    scores = task.measure(
        PlainEngine(model), RECORDS, task.encode_all(RECORDS), generate=0, console=QUIET
    )
    truth, guess, total = [], [], 0.0
    for item in RECORDS:
        encoded = model.tokenizer(item.text, return_tensors="pt", return_offsets_mapping=True,
                                  return_token_type_ids=False)  # fmt: skip
        starts = [start for start, _ in encoded.pop("offset_mapping")[0].tolist()]
        begin = 0 if family in ("llama", "gpt2") else 1
        firsts = [starts.index(start, begin) for start, _ in item.words]
        with torch.no_grad():
            logits = model.module(**encoded).logits[0, firsts]
        guess.append([TAGS[i] for i in logits.argmax(-1)])
        right = ["O"] * len(firsts)
        for entity in item.entities:
            right[entity.start : entity.end] = [f"B-{entity.label}"] + [f"I-{entity.label}"] * (
                entity.end - entity.start - 1
            )
        truth.append(right)
        places = torch.tensor([TAGS.index(tag) for tag in right])
        total += float(logits.log_softmax(-1).gather(1, places[:, None]).sum())
    found = figures(scores, task.metrics)
    assert found["f1"] == pytest.approx(f1_score(truth, guess))
    assert found["precision"] == pytest.approx(precision_score(truth, guess))
    assert found["recall"] == pytest.approx(recall_score(truth, guess))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    words = sum(map(len, truth))
    assert found["log_likelihood"] == pytest.approx(total / words, abs=1e-5)
    right = sum(
        a == b for x, y in zip(truth, guess, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert found["accuracy"] == pytest.approx(right / words)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "llama", "gpt2"])
def test_loss_and_gradients_equal_those_of_transformers(family: str) -> None:
    from tunesmith.techniques.base import ParameterGroup

    model = tagger(family)
    task = bound(model)
    examples = task.encode_all(RECORDS)
    names = {n: p.requires_grad_() for n, p in model.module.named_parameters()}
    engine = Engine(model, [ParameterGroup(names)])
    for module in model.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch, objective = collate(examples), TokenClasses()
    losses, _ = engine.forward_backward(batch, objective, objective.counts(batch))
    ours = {n: p.grad.clone() for n, p in names.items() if p.grad is not None}
    model.module.zero_grad()
    count, total = sum(e.streams["text"].trained() for e in examples), 0.0
    for example in examples:
        stream = example.streams["text"]
        share = stream.trained() / count
        loss = model.module(
            input_ids=torch.tensor([stream.ids]), labels=torch.tensor([stream.classes])
        ).loss
        (loss * share).backward()
        total += float(loss.detach()) * share
    assert losses["nll"] == pytest.approx(total, rel=1e-5)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, names[name].grad, rtol=1e-4, atol=1e-6, msg=name)


def test_predictions_say_what_is_named_where_and_how_surely() -> None:
    model = tagger(seed=3)
    task, engine = bound(model), PlainEngine(model)
    text = "Ada Lovelace lived in London, far away from here."
    (prediction, words) = task.predict(engine, [text, ["Ada", "Lovelace"]])
    assert prediction.spans, "a random head names something"
    for span in (*prediction.spans, *words.spans):
        assert span.label in NAMED
        assert 0 < span.probability <= 1
    for span in prediction.spans:
        assert text[span.start : span.end] == span.text
    assert prediction.text == "; ".join(f"{s.text} [{s.label}]" for s in prediction.spans)


@pytest.mark.parametrize(
    ("given", "what"), [(7, "It is a int"), ([], "no words"), (" ", "no words")]
)
def test_an_input_that_cannot_be_tagged_is_named(given: object, what: str) -> None:
    model = tagger()
    with pytest.raises(DataError, match=f"input 2: .*{what}"):
        bound(model).predict(PlainEngine(model), ["a", given])


def test_a_record_is_shown_with_what_is_named_in_it() -> None:
    task = bound(tagger())
    assert task.present(RECORDS[0]) == (RECORDS[0].text, "Ada Lovelace [PER]; London [LOC]")
    assert task.present(RECORDS[1])[1] == "nothing named"
