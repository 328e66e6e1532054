"""Each command passes on what it was given, and shows what came back."""

from __future__ import annotations

import io
from pathlib import Path

import pytest


def test_train_passes_on_recipe_and_overrides(api, command) -> None:
    said = command("train", "r.yaml", "--set", "a.b=1", "--set", "c=2", "--name", "x")
    assert said.code == 0
    assert api.calls == [
        ("train", "r.yaml", {"overrides": ["a.b=1", "c=2"], "name": "x", "runs_dir": "runs"})
    ]


def test_train_shows_the_verdict_a_table_and_the_report(api, command) -> None:
    out = command("train", "r.yaml").out
    assert "Improved. On 100 test records" in out
    assert "log likelihood" in out
    assert "+0.500 to +1.500" in out
    assert f"Report:  {api.run.report}" in out
    assert "tunesmith chat" in out


def test_train_resumes_without_a_recipe(api, command) -> None:
    assert command("train", "--resume", "demo-1").code == 0
    assert api.calls == [("resume", "demo-1", {"runs_dir": "runs"})]


def test_train_resumes_with_the_recipe_that_the_run_began_with_only(api, command) -> None:
    recipe = "model: m\ntask: instruct\ndata: {train: .}\n"
    Path("recipe.yaml").write_text(recipe)
    api.run.path.mkdir(parents=True)
    (api.run.path / "recipe.yaml").write_text(recipe.replace("train: .", f"train: {Path.cwd()}"))
    assert command("train", "recipe.yaml", "--resume", "demo-1").code == 0
    changed = command("train", "recipe.yaml", "--resume", "demo-1", "--set", "training.seed=7")
    assert changed.code == 2
    assert "began with another recipe: training changed" in changed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("train",),
        ("train", "--resume", "x", "--name", "y"),
        ("train", "--resume", "x", "--set", "a=1"),
        ("train", "r.yaml", "--unknown"),
        ("predict", "demo-1"),
        ("predict", "demo-1", "text", "--file", "f"),
        ("chat", "demo-1", "--base", "--compare"),
        ("chat", "demo-1", "--temperature", "-1"),
        ("models", "--json", "list"),
        ("nonsense",),
        ("recipe",),
    ],
)
def test_a_command_line_that_is_wrong_exits_with_2_and_points_at_the_help(
    api, command, arguments
) -> None:
    said = command(*arguments)
    assert said.code == 2
    assert "--help`" in said.err + said.out
    assert api.calls == []


def test_evaluate_passes_on_other_records(api, command) -> None:
    said = command("evaluate", "demo-1", "--data", "fresh.jsonl")
    assert said.code == 0
    assert api.calls[-1] == ("evaluate", "fresh.jsonl", {})
    assert "Improved" in said.out


def test_predict_answers_each_text(api, command) -> None:
    said = command("predict", "demo-1", "one", "two")
    assert api.run.heard == ["one", "two"]
    assert "> one\nanswer to one\n> two\nanswer to two\n" in said.out


def test_predict_shows_a_class_with_its_probability(api, command, monkeypatch) -> None:
    from tunesmith.tasks.base import Prediction, Ranked

    shares = {"good": 0.75, "bad": 0.25, "late": 0.5}
    for answer, shown in (
        (Prediction("good", shares), "good\t0.750\tnice"),
        (Prediction("good; late", shares), "good; late\t0.750\t0.500\tnice"),
        (Prediction("none", shares), "none\tnice"),
        (Prediction("1.5", score=1.5), "1.5\tnice"),
        (Prediction("b", ranking=(Ranked(1, "b", 0.9), Ranked(0, "a", 0.2))), "0.900\tb\n0.200\ta"),
    ):
        monkeypatch.setattr(api.run, "predict", lambda inputs, answer=answer: [answer])
        assert shown in command("predict", "demo-1", "nice").out


def test_predict_shows_what_is_named_a_line_each(api, command, monkeypatch) -> None:
    from tunesmith.tasks.base import Prediction, Span

    answer = Prediction("Ada [PER]", spans=(Span(0, 3, "Ada", "PER", 0.5),))
    monkeypatch.setattr(api.run, "predict", lambda inputs: [answer])
    assert "PER\t0.500\tAda\n" in command("predict", "demo-1", "Ada wrote").out
    (said,) = command("predict", "demo-1", "Ada wrote", "--json").document["predictions"]
    assert said["spans"] == [
        {"start": 0, "end": 3, "text": "Ada", "label": "PER", "probability": 0.5}
    ]


def test_predict_reads_lines_of_text_or_json(api, command) -> None:
    Path("in.txt").write_text("one\n\n{two}\n")
    command("predict", "demo-1", "--file", "in.txt")
    assert api.run.heard == ["one", "{two}"]
    Path("in.jsonl").write_text('"one"\n{"text": "two"}\n[{"role": "user", "content": "three"}]\n')
    command("predict", "demo-1", "--file", "in.jsonl")
    assert api.run.heard == ["one", "two", [{"role": "user", "content": "three"}]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'"x"\n{broken\n', "a.jsonl:2: This line is not valid JSON"),
        ("a.jsonl", b'{"label": 1}\n', "a.jsonl:1: This line has no input"),
        ("a.jsonl", b"3\n", "a.jsonl:1: This is no text"),
        ("a.txt", b"fine\nbr\xffken\n", "a.txt:2: This line is not UTF-8"),
        ("a.txt", b"\n \n", "a.txt: There is nothing to answer"),
        ("a.txt", None, "a.txt: There is no such file"),
    ],
)
def test_predict_names_the_line_of_an_input_that_is_wrong(
    api, command, name, content, said
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    answer = command("predict", "demo-1", "--file", name)
    assert answer.code == 2
    assert said in answer.err


def test_chat_keeps_the_conversation_until_it_is_reset(api, command, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\nagain\n/reset\nanew\n/exit\nnever\n"))
    said = command("chat", "demo-1", "--system", "be brief", "--temperature", "0.5")
    assert "tuned: 2 hello\ntuned: 4 again\ntuned: 2 anew\n" in said.out
    assert "never" not in said.out
    who, messages, temperature = api.run.heard[1]
    assert (who, temperature) == ("tuned", 0.5)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] == "tuned: 2 hello"


def test_chat_compares_each_model_with_its_own_history(api, command, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nagain\n"))
    said = command("chat", "demo-1", "--compare")
    assert "[base]\nbase: 1 hello\n[fine-tuned]\ntuned: 1 hello\n" in said.out
    histories = {who: messages for who, messages, _ in api.run.heard}
    assert histories["base"][1]["content"] == "base: 1 hello"
    assert histories["tuned"][1]["content"] == "tuned: 1 hello"


def test_chat_goes_on_after_an_answer_was_stopped(api, command, monkeypatch) -> None:
    answers = iter(["", "fine"])

    def stream(messages, **_):
        answer = next(answers)
        yield answer or "half"
        if not answer:
            raise KeyboardInterrupt

    monkeypatch.setattr(api.run, "stream", stream)
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    said = command("chat", "demo-1")
    assert said.code == 0
    assert "half\nfine\n" in said.out
    assert "(stopped)" in said.err


def test_check_shows_what_will_happen_and_the_records(api, command) -> None:
    said = command("check", "r.yaml", "--show", "1", "--set", "a=1")
    assert said.code == 0
    close = {"deep": False, "encoder": "minilm-l6", "html": None}
    assert api.calls == [("check", "r.yaml", {"overrides": ["a=1"], "show": 1, **close})]
    assert "lora: 10,000 parameters learn (1.00% of the model" in said.out
    assert "not read    id\n" in said.out
    assert "Chat template: the model's own." in said.out
    assert "a difference of 0.250 or more" in said.out
    assert "train.jsonl:3: 12 tokens cut" in said.out
    assert "train.jsonl:5: The assistant says nothing." in said.out
    assert "test.jsonl:7: the same as train.jsonl:9" in said.out
    assert "Say [hi].⟦ Hi!⟧" in said.out
    assert "1 test record stands in train." in said.err


def test_clean_says_what_it_did_and_where_it_says_why(api, command) -> None:
    said = command("clean", "a.jsonl", "--out", "b.jsonl", "--drop", "near_duplicate")
    assert said.code == 0
    ((name, source, options),) = api.calls
    assert (name, source, str(options["out"])) == ("clean", "a.jsonl", "b.jsonl")
    assert (options["drop"], options["change"], options["sure"]) == (["near_duplicate"], (), 0.7)
    assert "b.jsonl: 87 of 90 records of a.jsonl (alpaca), 2 of them changed." in said.out
    assert "dropped 3: near duplicate" in said.out
    assert "4 labels may be wrong as well" in said.out
    assert "b.log.jsonl" in said.out


def test_clean_needs_a_place_to_write_to(api, command) -> None:
    assert command("clean", "a.jsonl").code == 2


def test_plan_puts_techniques_side_by_side_and_says_which_cannot(api, command) -> None:
    said = command("plan", "r.yaml", "--technique", "repurpose", "--set", "a=1")
    assert said.code == 0
    options = {"overrides": ["a=1"], "techniques": ["repurpose"]}
    assert api.calls == [("plan_training", "r.yaml", options)]
    assert "9,000 tokens to learn from, in micro-batches of at most 2,000." in said.out
    assert "its shape was planned" in said.out
    assert "a token is taken to be four characters long" in said.out
    assert "4,000 (9,000)" in said.out
    assert "– (700)" in said.out
    assert "repurpose: It needs a task with classes." in said.out


def test_report_writes_the_report_of_the_run(api, command, monkeypatch) -> None:
    monkeypatch.setattr("tunesmith.evidence.report.write_report", lambda path: path / "r.html")
    assert str(api.run.path / "r.html") in command("report", "demo-1").out


def test_models_lists_the_catalogue_with_or_without_the_word(command) -> None:
    listed = command("models").out
    assert "smollm2-135m-instruct" in listed
    assert command("models", "list").out == listed


def test_models_where_of_what_is_not_here_says_how_to_fetch_it(
    command, monkeypatch, tmp_path
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("tunesmith.models.resolve.where", lambda name: None)
    said = command("models", "where", "minilm-l6")
    assert said.code == 2
    assert "tunesmith models pull minilm-l6" in said.err


def test_recipe_show_prints_every_default(command, tmp_path) -> None:
    (tmp_path / "r.yaml").write_text("model: m\ntask: instruct\ndata: {train: .}\n")
    said = command("recipe", "show", str(tmp_path / "r.yaml"), "--set", "training.seed=7")
    assert "  seed: 7\n" in said.out
    assert "  schedule: cosine\n" in said.out


def test_version_is_printed(command) -> None:
    assert command("--version").out == "tunesmith 0.1.0\n"


@pytest.mark.parametrize(
    "name",
    [
        "init",
        "check",
        "clean",
        "plan",
        "train",
        "evaluate",
        "predict",
        "chat",
        "report",
        "models",
        "models pull",
        "models where",
        "recipe schema",
        "recipe show",
    ],
)
def test_the_help_of_every_command_teaches_by_example(command, name) -> None:
    said = command(*name.split(), "--help")
    assert said.code == 0
    assert f"tunesmith {name}" in said.out.partition("Examples:")[2]
