"""Several tasks at once: what is trained, resumed, measured, told, saved and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.acceptance.jobs import ANSWERS, CLASSES, NUMBERS, RELATED, TAGGED, lines
from tests.interrupting import stopping_at
from transformers import AutoTokenizer

import tunesmith
from tunesmith.cli.contracts import CheckDocument, EvaluateDocument, TrainDocument
from tunesmith.errors import RecipeError

RECIPE = """model: {model}
task:
  name: multitask
  members:
    chat: {{task: {{name: instruct, max_new_tokens: 4}}, data: {{train: chat.jsonl}}}}
    mood: {{task: classification, data: {{train: mood.jsonl}}{mood}}}
  {options}
technique: {technique}
training: {{{training}}}
evaluation: {{generate: 2, probe: false, resamples: 200}}
{others}"""
TRAINING = "max_steps: 8, batch_size: 6, learning_rate: 0.02, schedule: constant, warmup: 0"
LATE = ", begin: 0.4, ramp: 0.2"


@pytest.fixture
def write(here: Path, tiny: Callable[[str], Path]) -> Callable[..., None]:
    """Write a recipe of two tasks, and their records."""

    def laid(
        family: str = "llama",
        mood: str = "",
        options: str = "mixing: weights",
        technique: str = "{name: lora, rank: 2, dropout: 0.2}",
        training: str = TRAINING,
        others: str = "",
    ) -> None:
        (here / "chat.jsonl").write_text(lines(ANSWERS))
        (here / "mood.jsonl").write_text(lines(CLASSES))
        (here / "recipe.yaml").write_text(
            RECIPE.format(
                model=tiny(family),
                mood=mood,
                options=options,
                technique=technique,
                training=training,
                others=others,
            )
        )

    return laid


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def test_resumed_equals_uninterrupted(here, command, write) -> None:
    write(
        mood=LATE,
        training=f"{TRAINING}, checkpoint_every: 3, validate_every: 4, keep_best: true",
    )
    assert command("train", "recipe.yaml", "--name", "whole").code == 0
    with stopping_at(6, OSError(28, "No space left on device")):
        assert command("train", "recipe.yaml", "--name", "cut").code != 0
    assert command("train", "--resume", "cut").code == 0
    whole, cut = here / "runs/whole", here / "runs/cut"
    for member in ("chat", "mood"):
        file = f"model/{member}/adapter_model.safetensors"
        ours, theirs = load_file(cut / file), load_file(whole / file)
        assert ours.keys() == theirs.keys()
        assert all(ours[name].equal(theirs[name]) for name in theirs)
    told = [
        [(e["step"], e.get("loss"), e.get("validation")) for e in events(r)] for r in (cut, whole)
    ]
    assert told[0] == told[1]
    assert (cut / "evaluation/metrics.json").read_text() == (
        whole / "evaluation/metrics.json"
    ).read_text()


def test_a_later_task_comes_in_gradually_while_the_first_is_replayed(here, command, write) -> None:
    write(mood=f"{LATE}, weight: 50", options="mixing: weights\n  replay: 0.5")
    assert command("train", "recipe.yaml", "--name", "r").code == 0
    terms = [set(event["terms"]) for event in events(here / "runs/r")]
    assert terms[:4] == [{"chat/nll"}] * 4  # 0.4 of 8 steps are over before the fifth
    assert terms[4:] == [{"chat/nll", "mood/nll"}] * 4


def test_each_task_measured_alone_is_as_it_was_measured_among_others(here, command, write) -> None:
    write()
    said = command("train", "recipe.yaml", "--name", "r", "--json")
    trained = TrainDocument.model_validate(said.document)
    assert set(trained.members) == {"chat", "mood"}
    for member in trained.members:
        document = command("evaluate", "r", "--as", member, "--json").document
        alone = EvaluateDocument.model_validate(document)
        for name, row in alone.metrics.items():
            among = trained.metrics[f"{member}/{name}"]
            assert row.before == pytest.approx(among.before, abs=1e-5)
            assert row.after == pytest.approx(among.after, abs=1e-4)


def test_the_report_and_the_verdict_tell_of_each_task(here, command, write) -> None:
    write()
    said = command("train", "recipe.yaml", "--name", "r")
    assert said.code == 0
    assert "Each task: chat: " in said.out
    assert "--as chat" in said.out
    page = (here / "runs/r/report.html").read_text()
    assert "the headline is that of the worst" in page
    assert "mood: classification, 16 records" in page


def test_a_run_of_several_tasks_is_asked_as_one_of_them(here, command, write) -> None:
    write()
    assert command("train", "recipe.yaml", "--name", "r").code == 0
    none = command("predict", "r", "hello")
    assert none.code == 2
    assert "Name one of them, such as --as chat" in none.err
    wrong = command("predict", "r", "hello", "--as", "moods")
    assert "Did you mean 'mood'?" in wrong.err
    (here / "mood.jsonl").unlink()  # what was learnt from is not needed any more
    assert command("predict", "r", "hello", "--as", "mood").code == 0
    alone = command("predict", "r", "hello", "--as", "chat")
    assert alone.code == 0
    run = tunesmith.open_run("r")
    with pytest.raises(RecipeError, match=r"run\.of\('chat'\) from Python"):
        run.predict(["hello"])
    with pytest.raises(RecipeError, match="several tasks at once: chat, mood"):
        next(run.stream(["hello"]))
    assert run.of("chat").predict(["hello"])


def test_check_says_what_is_learnt_of_each_and_finds_repeats_within_each(
    here, command, write
) -> None:
    write(mood=LATE)
    (here / "mood.jsonl").write_text(lines([*CLASSES, CLASSES[0]]))
    found = CheckDocument.model_validate(command("check", "recipe.yaml", "--json").document)
    assert any(said.startswith("chat: instruct, 20 records") for said in found.remarks)
    assert any("from step 5" in said for said in found.remarks)
    shown = CheckDocument.model_validate(
        command("check", "recipe.yaml", "--json", "--show", "2").document
    ).shown
    assert [Path(each.origin).name.partition(".")[0] for each in shown] == ["chat"] * 2 + [
        "mood"
    ] * 2
    assert len(found.exact_duplicates) == 1
    assert command("check", "recipe.yaml", "--deep").code == 2


def test_what_the_test_could_show_is_of_the_records_of_the_task_that_decides(
    here, command, write
) -> None:
    write()
    asked = [row | {"prompt": f"{row['prompt']} {i}"} for i in range(4) for row in ANSWERS]
    many = [row | {"text": f"{row['text']} {i}"} for i in range(8) for row in CLASSES]

    def checked(chat: list[dict], mood: list[dict], *changes: str) -> CheckDocument:
        (here / "chat.jsonl").write_text(lines(chat))
        (here / "mood.jsonl").write_text(lines(mood))
        given = ("task.members.chat.metric=exact_match", "evaluation.generate=50", *changes)
        options = [word for change in given for word in ("--set", change)]
        said = command("check", "recipe.yaml", "--json", *options)
        assert said.code == 0, said.err
        return CheckDocument.model_validate(said.document)

    found = checked(asked, CLASSES)
    chat = found.members["chat"]
    assert (found.metric, found.detectable) == (None, None)
    assert (chat.task, chat.metric) == ("instruct", "chat/exact_match")
    assert chat.detectable is not None
    assert list(found.members) == ["chat", "mood"]
    # The metric under `evaluation` chooses a checkpoint only.
    unequal = checked(asked, many, "evaluation.metric=mood/brier")
    assert unequal.test.records > found.test.records
    assert unequal.members["chat"] == chat
    fewer = checked(asked[:50], many).members["chat"]
    assert fewer.test_records < chat.test_records
    assert fewer.detectable is not None
    assert fewer.detectable > chat.detectable


def test_where_generated_answers_decide_checkpoints_are_chosen_by_what_is_not_generated(
    here, command, write
) -> None:
    write(training=f"{TRAINING}, validate_every: 4, keep_best: true")
    said = command(
        "train", "recipe.yaml", "--name", "r", "--json",
        "--set", "task.members.chat.metric=exact_match",
    )  # fmt: skip
    assert said.code == 0, said.err
    trained = TrainDocument.model_validate(said.document)
    assert trained.members["chat"].primary == "chat/exact_match"
    validated = [each["validation"] for each in events(here / "runs/r") if each.get("validation")]
    assert len(validated) == 2
    assert all("chat/exact_match" not in each for each in validated)


def test_the_metric_that_a_first_task_finds_in_its_records_decides(here, command, tiny) -> None:
    scored = [
        {"sentence1": row["text"], "sentence2": "The lamp was fine", "score": i % 5 / 4}
        for i, row in enumerate(CLASSES)
    ]
    for name, rows in (("near", scored), ("mood", CLASSES)):
        (here / f"{name}.jsonl").write_text(lines(rows))
    (here / "recipe.yaml").write_text(
        f"model: {tiny('bert')}\ntask:\n  name: multitask\n  members:\n"
        "    near: {task: embedding, data: {train: near.jsonl}}\n"
        "    mood: {task: classification, data: {train: mood.jsonl}}\n"
        "technique: full\ntraining: {max_steps: 4, batch_size: 6}\n"
    )
    said = command("check", "recipe.yaml", "--json")
    assert said.code == 0, said.err
    assert CheckDocument.model_validate(said.document).members["near"].metric == "near/spearman"


def test_a_head_of_tags_one_of_vectors_and_one_of_a_number_share_an_encoder(
    here, command, tiny
) -> None:
    rows = {"names": TAGGED, "near": RELATED, "size": NUMBERS}
    tasks = {"names": "tagging", "near": "embedding", "size": "regression"}
    for name, found in rows.items():
        (here / f"{name}.jsonl").write_text(lines(found))
    members = "".join(
        f"    {name}: {{task: {task}, data: {{train: {name}.jsonl}}}}\n"
        for name, task in tasks.items()
    )
    (here / "recipe.yaml").write_text(
        f"model: {tiny('bert')}\ntask:\n  name: multitask\n  mixing: temperature\n"
        f"  members:\n{members}technique: full\n"
        "training: {max_steps: 4, batch_size: 6, learning_rate: 0.001, tokens_per_batch: 512}\n"
    )
    said = command("train", "recipe.yaml", "--name", "r")
    assert said.code == 0, said.err
    bodies = [load_file(here / f"runs/r/model/{name}/model.safetensors") for name in rows]
    layer = "encoder.layer.1.output.dense.weight"
    found = [next(t for n, t in body.items() if n.endswith(layer)) for body in bodies]
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])


PLAINLY = (
    "{% for m in messages %}<|im_start|>NAME {{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>NAME assistant: {% endif %}"
)


@pytest.mark.parametrize("given", [("second",), ("first",), ("first", "second")])
def test_each_of_two_that_write_learns_and_is_saved_with_its_own_chat_template(
    here, command, tiny, given
) -> None:
    templates = {name: PLAINLY.replace("NAME", name) for name in given}
    members = ""
    for name in ("first", "second"):
        (here / f"{name}.jsonl").write_text(lines(ANSWERS))
        task = {"name": "instruct", "max_new_tokens": 4}
        if name in templates:
            task["template"] = templates[name]
        members += f"    {name}: {{task: {json.dumps(task)}, data: {{train: {name}.jsonl}}}}\n"
    (here / "recipe.yaml").write_text(
        f"model: {tiny('llama')}\ntask:\n  name: multitask\n  members:\n{members}"
        "technique: {name: lora, rank: 2}\ntraining: {max_steps: 4, batch_size: 6}\n"
        "evaluation: {generate: 2, probe: false, resamples: 200}\n"
    )
    said = command("train", "recipe.yaml", "--name", "r")
    assert said.code == 0, said.err
    models_own = (Path(tiny("llama")) / "chat_template.jinja").read_text()
    messages = [{"role": "user", "content": "Say apple horse"}]
    for name in ("first", "second"):
        saved = AutoTokenizer.from_pretrained(here / "runs/r/model" / name)
        assert saved.chat_template == templates.get(name, models_own)
        asked = saved.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        again = tunesmith.open_run("r").of(name)
        assert again.predict(["Say apple horse"])
        assert (
            again.task.prompt(messages).ids == saved(asked, add_special_tokens=False)["input_ids"]
        )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"others": "objective: token_likelihood\n"}, "under the objective of its own"),
        ({"others": "retain: [{name: l2_sp}]\n"}, "Retainers look at one task"),
        ({"others": "base: {stream: true}\n"}, "cannot be shared by several heads"),
        ({"others": "data: {train: other.jsonl}\n"}, "Each of several tasks names its own data"),
        ({"technique": "repurpose"}, "there is nothing that several tasks would share"),
        ({"technique": "prompt_tuning"}, "stand before the texts of one task"),
        ({"mood": ", metric: bleu"}, "has no metric 'bleu'"),
        ({"mood": ", ramp: 0.5"}, "set `begin` as well"),
        ({"mood": ", begin: 0.9, ramp: 0.9"}, "`begin` and `ramp` together are at most 1"),
        (
            {"mood": ", weight: 2", "options": "mixing: temperature"},
            "task.members.mood.weight: Weights are not read with `mixing: temperature`. Set"
            " task.mixing to weights",
        ),
        (
            {"options": "temperature: 5"},
            "task.temperature: The temperature is not read with `mixing: proportion`. Set"
            " task.mixing to temperature",
        ),
        ({"mood": ", begin: 0.99"}, "nothing is learnt of 'mood'"),
        ({"options": "mixing: evenly"}, "Must be 'proportion', 'temperature' or 'weights'"),
        ({"options": "membres: {}"}, "Did you mean 'members'?"),
        ({"mood": ", wieght: 2"}, "Did you mean 'weight'?"),
        ({"family": "bert"}, "it reads text and writes none"),
    ],
)
def test_what_cannot_be_is_refused_before_training(here, command, write, changes, what) -> None:
    write(**changes)
    said = command("train", "recipe.yaml")
    assert said.code == 2
    assert what in said.err
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("task: classification", "task: multitask", "mood.task: A member is one task; list all"),
        (
            "{train: mood.jsonl}", "{train: mood.jsonl, test: 0.2, streaming: true}",
            "mood.data: The records of several tasks are mixed, and a stream has no size: leave"
            " `streaming` out",
        ),
        ("name: multitask", "name: multitasks", "task.name: There is no task called 'multitasks'"),
        ("name: multitask", "type: multitask", "task.name: "),
    ],
)  # fmt: skip
def test_a_slip_is_said_once_and_where_it_is(here, command, write, old, new, what) -> None:
    write()
    text = (here / "recipe.yaml").read_text()
    assert old in text
    (here / "recipe.yaml").write_text(text.replace(old, new))
    said = command("check", "recipe.yaml")
    assert said.code == 2
    assert what in said.err
    assert "things are wrong" not in said.err


@pytest.mark.parametrize("data", ["", "data: {train: chat.jsonl}\n"])
@pytest.mark.parametrize(
    "task",
    ["multitask", *(f"{{name: multitask{m}}}" for m in ("", ", members: [a]", ", members: {}"))],
)
def test_of_wrongly_written_members_only_that_is_said(here, command, write, task, data) -> None:
    write()
    (here / "recipe.yaml").write_text(f"model: tiny\ntask: {task}\n{data}")
    said = command("check", "recipe.yaml")
    assert said.code == 2
    assert "task.members" in said.err
    assert "things are wrong" not in said.err
    assert "'data'" not in said.err


def test_a_missing_file_is_named_with_its_line(here, command, write) -> None:
    write()
    (here / "mood.jsonl").unlink()
    said = command("check", "recipe.yaml")
    assert "recipe.yaml:6: task.members.mood.data.train: There is no file 'mood.jsonl'" in said.err


def test_a_recipe_as_resolved_loads_as_equal(here, write) -> None:
    from tunesmith.recipes import load_recipe

    write(mood=LATE)
    recipe = load_recipe("recipe.yaml")
    (here / "again.yaml").write_text(recipe.to_yaml())
    assert load_recipe("again.yaml") == recipe
