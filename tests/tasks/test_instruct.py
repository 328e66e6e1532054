"""Instruct: two instruments side by side, and what becomes of what does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.data.families import family_tokenizer
from tests.data.test_tool_calls import TOOLS
from tests.tasks.plain_engine import PlainEngine
from tests.tiny import tiny_llama

from tunesmith.console import Console
from tunesmith.data.records import Conversation, Message
from tunesmith.data.turns import read_messages, read_tools
from tunesmith.engine.generation import Generated, Sampling
from tunesmith.errors import DataError, UnlearnableError
from tunesmith.evaluation.significance import figures
from tunesmith.models.model import Model
from tunesmith.tasks.instruct import Instruct

MODEL = tiny_llama()
QUIET = Console(quiet=True)


def chat(*turns: tuple[str, str]) -> Conversation:
    return Conversation(messages=[Message(role=role, content=text) for role, text in turns])


def bound(**options: object) -> Instruct:
    task = Instruct(Instruct.Options(**({"max_new_tokens": 8} | options)))
    task.bind(MODEL)
    return task


DATA = [
    chat(("user", "sea?"), ("assistant", "salt")),
    chat(("user", "court?"), ("assistant", "law, and a longer answer")),
    chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
]


class Parrot(PlainEngine):
    """Generates given answers; notes what it was asked."""

    def __init__(self, answers: dict[str, str], *, stops: bool = True) -> None:
        super().__init__(MODEL)
        self.answers, self.stops = answers, stops
        self.asked: list[str] = []

    def generate(self, prompts: object, sampling: Sampling, **options: object) -> list[Generated]:
        found = []
        for prompt in prompts:
            text = MODEL.tokenizer.decode(prompt)
            self.asked.append(text)
            answer = next(a for question, a in self.answers.items() if question in text)
            found.append(Generated(MODEL.tokenizer(answer)["input_ids"], [], self.stops))
        return found


def test_what_the_chat_template_does_is_said() -> None:
    task = bound()
    (said, *_) = task.remarks()
    (end, *_) = (MODEL.tokenizer.convert_ids_to_tokens(token) for token in task.stop_ids)
    assert said.startswith("Chat template: ")
    assert f"answers end with {end}" in said


def test_log_likelihood_is_that_of_the_stock_model_on_the_answers():
    task = bound()
    examples = task.encode_all(DATA)
    scores = task.measure(PlainEngine(MODEL), DATA, examples, generate=0, console=QUIET)
    for example, score in zip(examples, scores, strict=True):
        stream = example.streams["text"]
        ids = torch.tensor([stream.ids])
        labels = torch.tensor(
            [[i if w else -100 for i, w in zip(stream.ids, stream.weights, strict=True)]]
        )
        loss = MODEL.module(input_ids=ids, labels=labels).loss.item()
        tokens = score.statistics["tokens"]
        assert tokens == stream.trained()
        assert -score.statistics["log_likelihood"] / tokens == pytest.approx(loss, abs=1e-5)


def test_generation_is_measured_on_the_first_records_only():
    task = bound()
    engine = Parrot({"sea?": "salt", "court?": "a court"})
    scores = task.measure(engine, DATA, task.encode_all(DATA), generate=2, console=QUIET)
    assert [score.output for score in scores] == ["salt", "a court", None]
    assert ["generated" in score.statistics for score in scores] == [True, True, False]
    found = figures(scores, task.metrics)
    assert found["exact_match"] == 0.5
    assert found["stops_by_itself"] == 1.0


def test_the_last_answer_is_what_is_generated_and_compared():
    task = bound()
    engine = Parrot({"c": "d"})
    (score,) = task.measure(engine, DATA[2:], task.encode_all(DATA[2:]), generate=1, console=QUIET)
    assert score.statistics["exact_match"] == 1.0
    assert "b<|im_end|>" in engine.asked[0]
    assert engine.asked[0].endswith("<|im_start|>assistant\n")


def test_an_answer_that_ran_out_of_tokens_did_not_stop_by_itself():
    task = bound()
    engine = Parrot({"sea?": "salt"}, stops=False)
    (score,) = task.measure(engine, DATA[:1], task.encode_all(DATA[:1]), generate=1, console=QUIET)
    assert score.statistics["stops_by_itself"] == 0.0


def test_teacher_forced_hits_are_no_metric():
    task = bound()
    scores = task.measure(
        PlainEngine(MODEL), DATA, task.encode_all(DATA), generate=0, console=QUIET
    )
    assert all("correct" in score.statistics for score in scores)
    assert not any("correct" in metric.statistics for metric in task.metrics.values())
    assert set(figures(scores, task.metrics)) == {"log_likelihood", "perplexity"}


def test_metrics_of_generated_answers_say_so():
    generated = {name for name, metric in bound().metrics.items() if metric.generated}
    assert generated == {"exact_match", "rouge_l", "stops_by_itself"}


def test_records_that_leave_no_room_to_answer_are_not_generated_and_are_counted(capsys):
    task = bound(max_new_tokens=120)
    scores = task.measure(
        Parrot({"sea?": "salt", "court?": ""}), DATA[:2], task.encode_all(DATA[:2]), generate=2,
        console=QUIET,
    )  # fmt: skip
    assert [score.output for score in scores] == [None, None]
    assert "2 of 2 records were not measured by generation" in capsys.readouterr().err


def test_a_system_prompt_is_put_before_conversations_that_have_none():
    task = bound(system="Be brief.")
    own = chat(("system", "Be long."), ("user", "a"), ("assistant", "b"))
    shown = [MODEL.tokenizer.decode(e.streams["text"].ids) for e in task.encode_all([DATA[0], own])]
    assert "Be brief." in shown[0]
    assert "Be brief." not in shown[1]
    assert "Be long." in shown[1]
    assert "Be brief." in MODEL.tokenizer.decode(task.prompt("a").ids)


def test_a_template_of_the_users_is_used():
    template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    ids = bound(template=template).prompt("sea?").ids
    assert MODEL.tokenizer.decode(ids) == "[user] sea?<|im_end|>[assistant] "


def test_a_prompt_is_the_beginning_of_the_training_example():
    task = bound()
    ids = task.prompt("sea?").ids
    assert list(task.encode(DATA[0]).streams["text"].ids[: len(ids)]) == ids


@pytest.mark.parametrize(
    "record",
    [
        chat(("user", "a")),
        chat(("user", "a"), ("user", "b")),
        chat(("user", "a"), ("assistant", " ")),
    ],
    ids=["question only", "two questions", "empty answer"],
)
def test_a_conversation_without_an_answer_is_an_error(record: Conversation):
    with pytest.raises(DataError, match=r"chat.jsonl:3: Nothing of it is learnt"):
        bound().encode_all([record], ["chat.jsonl:3"])


def test_a_conversation_that_does_not_fit_is_cut_and_says_so():
    long = chat(("user", "x" * 90), ("assistant", "salt"))
    encoded = bound(max_length=60).encode(long)
    assert encoded.length <= 60
    assert encoded.cut is not None
    assert encoded.cut.tokens > 30


def test_texts_messages_and_dicts_are_answered_alike():
    task = bound()
    engine = Parrot({"sea?": "salt"})
    inputs = ["sea?", [Message(role="user", content="sea?")], [{"role": "user", "content": "sea?"}]]
    assert [p.text for p in task.predict(engine, inputs)] == ["salt"] * 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (7, "It is a int"),
        ([], "It is a list"),
        ([{"role": "usr", "content": "a"}], "A message is wrong: role"),
        ("x" * 200, "more than the model's context of 128"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": "["}, "input is wrong: tools"),
    ],
)
def test_a_wrong_input_is_an_error_that_names_it(wrong: object, message: str):
    with pytest.raises(DataError, match=f"input 2: .*{message}"):
        bound().predict(PlainEngine(MODEL), ["a", wrong])


def test_only_the_last_turn_is_learnt_where_that_is_asked_for():
    every, last = (bound(train_on=turns).encode(DATA[2]) for turns in ("all", "last"))
    (whole,), (part,) = every.streams.values(), last.streams.values()
    assert whole.ids == part.ids
    learnt = [i for i, on in zip(part.ids, part.learnt(), strict=True) if on]
    assert MODEL.tokenizer.decode(learnt) == "d<|im_end|>"
    assert whole.trained() == 2 * part.trained()


def test_a_last_turn_that_says_nothing_is_refused_where_it_alone_is_learnt():
    silent = chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", " "))
    assert bound().encode(silent).length
    with pytest.raises(UnlearnableError, match="the assistant says nothing"):
        bound(train_on="last").encode(silent)


def test_tools_on_offer_are_asked_with_as_they_are_learnt_with():
    tokenizer = family_tokenizer("qwen2_5")
    anatomy = replace(MODEL.anatomy, context_length=4000)
    task = Instruct(Instruct.Options(max_new_tokens=4))
    task.bind(Model(MODEL.module, tokenizer, anatomy, MODEL.source))
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Lisbon"}'}}
    turns = [
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "Fine."},
    ]
    tools = read_tools({"tools": TOOLS})
    record = Conversation(messages=read_messages(turns, "messages"), tools=tools)
    (stream,) = task.encode(record).streams.values()
    prompt = task.prompt({"messages": turns[:3], "tools": TOOLS}).ids
    assert list(stream.ids[: len(prompt)]) == prompt
    assert "Says what the weather is." in tokenizer.decode(prompt)
    assert '"arguments": {"city": "Lisbon"}' in tokenizer.decode(prompt)


def test_people_see_the_question_and_the_answer():
    assert bound().present(DATA[0]) == ("sea?", "salt")
    assert bound().present(DATA[2])[0] == "user: a\nassistant: b\nuser: c"


def test_generation_gives_what_the_stock_model_generates():
    task = bound(max_new_tokens=6)
    engine = PlainEngine(MODEL)
    prompt = torch.tensor([task.prompt("sea?").ids])
    whole = MODEL.module.generate(
        prompt, max_new_tokens=6, do_sample=False, eos_token_id=MODEL.tokenizer.eos_token_id,
        pad_token_id=0,
    )  # fmt: skip
    expected = MODEL.tokenizer.decode(whole[0, prompt.shape[1] :], skip_special_tokens=True)
    assert task.predict(engine, ["sea?"])[0].text == expected


def test_the_tasks_context_is_the_models():
    task = Instruct()
    task.bind(replace(MODEL, anatomy=replace(MODEL.anatomy, context_length=40)))
    assert task.encode(chat(("user", "x" * 90), ("assistant", "salt"))).length <= 40
