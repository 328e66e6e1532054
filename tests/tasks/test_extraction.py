"""Extraction: windows over long texts, the best span of them, and when nothing is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.tasks.plain_engine import PlainEngine
from tests.tiny import tiny_model

from tunesmith.console import Console
from tunesmith.data.batch import collate
from tunesmith.data.records import Answer, QuestionedText
from tunesmith.engine.engine import Engine
from tunesmith.errors import DataError, UnlearnableError
from tunesmith.evaluation.significance import figures
from tunesmith.models.model import Model
from tunesmith.objectives.spans import Spans
from tunesmith.tasks.extraction import SILENCE, Extraction
from tunesmith.techniques.base import ParameterGroup

QUIET = Console(quiet=True)
TEXT = "Ada lives in Rome."
LONG = "They say that it rains a lot where Ada lives, and that is Rome, not Oslo at all."


def asked(question: str, *answers: str, text: str = TEXT) -> QuestionedText:
    return QuestionedText(
        text=text,
        question=question,
        answers=[Answer(text=answer, start=text.index(answer)) for answer in answers],
    )


RECORDS = [asked("Where?", "Rome"), asked("Who?", "Ada"), asked("When?"), asked("?", "lives in")]


def reader(family: str = "bert", **options: object) -> Model:
    return tiny_model(family, "extraction", **options)


def bound(
    model: Model, records: list[QuestionedText] | None = None, **options: object
) -> Extraction:
    task = Extraction(Extraction.Options(**options))
    task.study(RECORDS if records is None else records)
    task.bind(model)
    return task


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_question_and_its_text_are_laid_out_as_the_tokenizer_does(family: str) -> None:
    model = reader(family)
    encoded = bound(model).encode(RECORDS[0])
    ids = model.tokenizer("Where?", TEXT)["input_ids"]
    assert list(encoded.streams["text"].ids) == ids
    first, last = encoded.label
    assert model.tokenizer.decode(ids[first : last + 1]) == "Rome"


def test_a_line_break_parts_what_the_tokenizer_does_not() -> None:
    model = reader("gpt2")
    encoded = bound(model).encode(RECORDS[0])
    assert model.tokenizer.decode(encoded.streams["text"].ids) == f"Where?\n{TEXT}"


def test_the_tokenizer_gives_pairs_no_types_afterwards(tmp_path) -> None:
    from transformers import AutoTokenizer

    model = reader()
    model.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    bound(model)
    assert "token_type_ids" not in model.tokenizer("a", "b")
    model.tokenizer.save_pretrained(tmp_path)
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(tmp_path)("a", "b")


def test_a_long_text_becomes_windows_and_one_without_the_answer_points_at_the_first_token() -> None:
    model = reader()
    task = bound(model, max_length=40, stride=10)
    record = asked("Where?", "Rome", text=LONG)
    pieces = task.pieces(record)
    assert len(pieces) > 2
    assert all(piece.length <= 40 for piece in pieces)
    labels = {piece.label for piece in pieces}
    assert (0, 0) in labels
    for piece in pieces:
        ids = piece.streams["text"].ids
        assert model.tokenizer.decode(ids[1:7]) == "Where?"
        if piece.label != (0, 0):
            assert model.tokenizer.decode(ids[piece.label[0] : piece.label[1] + 1]) == "Rome"


def test_an_answer_that_no_window_holds_is_an_error() -> None:
    task = bound(reader(), max_length=20, stride=2)
    with pytest.raises(UnlearnableError, match="answer has 23 tokens"):
        task.pieces(asked("Where?", "where Ada lives, and th", text=LONG))
    with pytest.raises(DataError, match="question has 30 tokens, which leaves no room"):
        task.pieces(asked("W" * 30, "Rome"))


def test_records_without_any_answer_are_an_error() -> None:
    with pytest.raises(DataError, match="No training record has an answer"):
        Extraction().study(RECORDS[2:3])


def outputs(task: Extraction, record: QuestionedText, **peaks: float) -> list[np.ndarray]:
    """Logits of one window: for each text a score where it begins and ends; `none` at the front."""
    laid = task._layout.lay(record)
    found = np.zeros((len(laid.before) + len(laid.ids) + 1, 2))
    for text, score in peaks.items():
        if text == "none":
            found[0] = score / 2
            continue
        start = record.text.index(text)
        found[len(laid.before) + start, 0] = score / 2
        found[len(laid.before) + start + len(text) - 1, 1] = score / 2
    return [found]


def test_the_best_span_is_the_answer() -> None:
    task = bound(reader())
    score = task._score(0, RECORDS[0], outputs(task, RECORDS[0], Rome=8, Ada=6))
    assert score.output == "Rome"
    assert (score.statistics["exact"], score.statistics["f1"]) == (1, 1)


def test_no_answer_is_longer_than_asked_for_or_ends_before_it_begins() -> None:
    task = bound(reader(), max_answer_length=3)
    laid = outputs(task, RECORDS[0], Rome=8, Ada=6)
    assert task._score(0, RECORDS[0], laid).output == "Ada"
    backwards = outputs(task, RECORDS[0], lives=1)
    first = len(task._layout.lay(RECORDS[0]).before)
    backwards[0][first + 13, 0] = backwards[0][first + 2, 1] = 9  # "Rome" begins after "Ada" ends
    found = task._best(task._layout.lay(RECORDS[0]), backwards)
    assert found.start <= found.end <= found.start + 3


def test_nothing_is_said_where_that_scores_higher_by_the_threshold() -> None:
    peaks = {"Rome": 8.0, "none": 9.0}
    task = bound(reader())
    said = task._score(0, RECORDS[2], outputs(task, RECORDS[2], **peaks))
    assert (said.output, said.statistics["exact"]) == (SILENCE, 1)
    brave = bound(reader(), no_answer_threshold=1.5)
    assert brave._score(0, RECORDS[2], outputs(brave, RECORDS[2], **peaks)).output == "Rome"
    always = bound(reader(), RECORDS[:2])  # no unanswerable question was learnt
    assert always._score(0, RECORDS[0], outputs(always, RECORDS[0], **peaks)).output == "Rome"
    again = Extraction()
    again.load_state(task.state())
    assert again.metrics.keys() == task.metrics.keys() == always.metrics.keys() | {
        "answerable_f1", "silence",
    }  # fmt: skip


def test_the_best_window_decides() -> None:
    task = bound(reader(), max_length=40, stride=10)
    record = asked("Where?", "Rome", text=LONG)
    laid = task._layout.lay(record)
    found = [np.zeros((len(laid.before) + w.end - w.start + 1, 2)) for w in laid.windows]
    token = LONG.index("Rome")
    for score, (window, logits) in enumerate(zip(laid.windows, found, strict=True), start=1):
        if window.start <= token < window.end - 4:
            logits[len(laid.before) + token - window.start, 0] = score
            logits[len(laid.before) + token + 3 - window.start, 1] = score
        logits[0] = -score
    best = task._best(laid, found)
    assert LONG[best.start : best.end] == "Rome"
    assert best.silence == -2 * len(laid.windows)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "gpt2"])
def test_loss_and_gradients_equal_those_of_transformers(family: str) -> None:
    model = reader(family)
    examples = bound(model).encode_all(RECORDS)
    names = {n: p.requires_grad_() for n, p in model.module.named_parameters()}
    engine, objective = Engine(model, [ParameterGroup(names)]), Spans()
    batch = collate(examples)
    losses, _ = engine.forward_backward(batch, objective, objective.counts(batch))
    ours = {n: p.grad.clone() for n, p in names.items() if p.grad is not None}
    model.module.zero_grad()
    total = 0.0
    for example in examples:
        start, end = example.label
        loss = model.module(
            input_ids=torch.tensor([example.streams["text"].ids]),
            start_positions=torch.tensor([start]),
            end_positions=torch.tensor([end]),
        ).loss / len(examples)
        loss.backward()
        total += float(loss.detach())
    assert losses["nll"] == pytest.approx(total, rel=1e-5)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, names[name].grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_figures_of_the_engine_equal_those_of_the_stock_model(family: str) -> None:
    model = reader(family)
    task = bound(model, max_length=40, stride=10)
    records = [*RECORDS, asked("Where?", "Rome", text=LONG)]
    examples = task.encode_all(records)
    theirs, ours = (
        task.measure(engine, records, examples, generate=0, console=QUIET)
        for engine in (PlainEngine(model), Engine(model))
    )
    for plain, score in zip(theirs, ours, strict=True):
        assert score.output == plain.output
        assert score.statistics == pytest.approx(plain.statistics, abs=2e-4)
    found = figures(ours, task.metrics)
    assert found["silence"] == ours[2].statistics["exact"]
    answered = [score.statistics["f1"] for i, score in enumerate(ours) if i != 2]
    assert found["answerable_f1"] == pytest.approx(np.mean(answered))


def test_a_user_may_ask_by_an_object_or_by_a_text_whose_first_line_is_the_question() -> None:
    model = reader()
    task, engine = bound(model, no_answer_threshold=1e6), PlainEngine(model)
    one, other = task.predict(engine, [{"question": "Where?", "context": TEXT}, f"Where?\n{TEXT}"])
    assert one == other
    (span,) = one.spans
    assert TEXT[span.start : span.end] == span.text == one.text
    assert 0 < span.probability <= 1
    for given in ("no text", {"question": "Who?"}, 3, {"question": " ", "context": TEXT}):
        with pytest.raises(DataError, match="input 1: It is no question with a text"):
            task.predict(engine, [given])


def test_a_record_is_shown_with_its_answers() -> None:
    task = bound(reader())
    assert task.present(asked("Where?", "Rome", "in Rome"))[1] == "Rome / in Rome"
    assert task.present(RECORDS[2]) == (f"When?\n\n{TEXT}", SILENCE)


def test_a_context_too_short_for_anything_is_named() -> None:
    model = reader()
    small = replace(model, anatomy=replace(model.anatomy, context_length=8))
    with pytest.raises(DataError, match="leaves no room"):
        bound(small).pieces(RECORDS[0])
