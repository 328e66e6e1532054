"""A student learns what its teacher says: the loss is the plain formula, and its gradient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.acceptance.jobs import ANSWERS, CLASSES, lines
from tests.interrupting import stopping_at
from tests.tiny import tiny_model, tiny_model_folder
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div, log_softmax

from tunesmith.console import Console
from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.engine import Engine
from tunesmith.errors import RecipeError
from tunesmith.objectives.class_distillation import ClassDistillation
from tunesmith.objectives.distillation import Distillation
from tunesmith.recipes.load import parse_recipe
from tunesmith.registry import TECHNIQUES
from tunesmith.runs.prepare import prepare
from tunesmith.runs.run import Run
from tunesmith.runs.teacher import Teacher
from tunesmith.runs.train import resume, train
from tunesmith.training.guards import Interrupted

SILENT = Console(quiet=True)


def examples(labelled: bool = False) -> list[Encoded]:
    rows = [tuple(range(10 + i, 18 + 2 * i)) for i in range(4)]
    if labelled:
        return [Encoded({"text": EncodedStream(ids)}, i % 2) for i, ids in enumerate(rows)]
    return [Encoded({"text": EncodedStream(ids, (1.0,) * len(ids))}) for ids in rows]


def learner(family: str, head: str, labels: tuple[str, ...] = (), seed: int = 0) -> Engine:
    model = tiny_model(family, head, labels, seed=seed)
    technique = TECHNIQUES.get("full")()
    technique.prepare(model)
    return Engine(model, technique.parameter_groups(model))


def gradients(engine: Engine) -> dict[str, torch.Tensor]:
    found = {n: p.grad for n, p in engine.optimizer.parameters.items() if p.grad is not None}
    for parameter in engine.optimizer.parameters.values():
        parameter.grad = None
    return found


def outputs(engine: Engine, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and last hidden states of the learnt tokens, by transformers alone."""
    logits, hidden, stream = [], [], batch.text
    for start, end in zip(stream.cu_seqlens[:-1], stream.cu_seqlens[1:], strict=True):
        out = engine.model.module(
            input_ids=stream.ids_T[start:end][None], output_hidden_states=True
        )
        logits.append(out.logits[0])
        hidden.append(out.hidden_states[-1][0])
    learnt = stream.weights_T != 0
    return torch.cat(logits)[learnt], torch.cat(hidden)[learnt]


@pytest.mark.parametrize("hidden", [0.0, 0.7])
def test_the_loss_of_tokens_is_the_plain_formula(hidden: float) -> None:
    student, teacher = learner("llama", "causal_lm"), Engine(tiny_model("llama", seed=5))
    objective = Distillation(
        Distillation.Options(teacher="t", temperature=2.5, weight=0.3, hidden=hidden)
    )
    objective.learn_from(teacher)
    batch = collate(examples())
    shares, _ = student.forward_backward(batch, objective, objective.all_counts(batch))
    ours = gradients(student)

    with torch.no_grad():
        taught, seen = outputs(teacher, batch)
    said, states = outputs(student, batch)
    targets = batch.text.targets_T[batch.text.weights_T != 0]
    kl = kl_div(
        log_softmax(said / 2.5, -1), log_softmax(taught / 2.5, -1), log_target=True,
        reduction="sum",
    ) / len(targets)  # fmt: skip
    apart = (1 - cosine_similarity(states, seen, dim=-1)).mean()
    loss = 0.7 * cross_entropy(said, targets) + 0.3 * 2.5**2 * kl + hidden * apart
    loss.backward()
    assert sum(shares.values()) == pytest.approx(float(loss.detach()), rel=1e-4)
    for name, expected in gradients(student).items():
        torch.testing.assert_close(ours[name], expected, rtol=2e-3, atol=2e-4)


def test_the_loss_of_classes_is_the_plain_formula() -> None:
    labels = ("a", "b")
    student = learner("bert", "classification", labels)
    teacher = Engine(tiny_model("bert", "classification", labels, seed=5))
    objective = ClassDistillation(
        ClassDistillation.Options(teacher="t", temperature=2.5, weight=0.3)
    )
    objective.learn_from(teacher)
    batch = collate(examples(labelled=True))
    shares, _ = student.forward_backward(batch, objective, objective.all_counts(batch))

    def logits(engine: Engine) -> torch.Tensor:
        pairs = zip(batch.text.cu_seqlens[:-1], batch.text.cu_seqlens[1:], strict=True)
        rows = [batch.text.ids_T[start:end][None] for start, end in pairs]
        return torch.cat([engine.model.module(input_ids=row).logits for row in rows])

    with torch.no_grad():
        said, taught = logits(student), logits(teacher)
        kl = kl_div(
            log_softmax(said / 2.5, -1), log_softmax(taught / 2.5, -1), log_target=True,
            reduction="batchmean",
        )  # fmt: skip
        loss = 0.7 * cross_entropy(said, batch.labels) + 0.3 * 2.5**2 * kl
    assert sum(shares.values()) == pytest.approx(float(loss), rel=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("distillation")
    (made / "train.jsonl").write_text(lines(ANSWERS))
    (made / "class.jsonl").write_text(lines(CLASSES))
    for name, family, more in (
        ("student", "llama", {}), ("wide", "llama", {"hidden_size": 64}), ("bert", "bert", {}),
        ("short", "llama", {"max_position_embeddings": 16}),
        ("mid", "llama", {"max_position_embeddings": 80}),
    ):  # fmt: skip
        tiny_model_folder(made / name, family, **more)
    return made


def model_of(folder: Path, name: str) -> str:
    return str(next((folder / name).rglob("config.json")).parent)


def recipe(folder: Path, objective: dict[str, Any] | None, **sections: Any) -> dict[str, Any]:
    return {
        "model": model_of(folder, "student"),
        "task": {"name": "instruct", "max_new_tokens": 3},
        "data": {"train": str(folder / "train.jsonl")},
        "technique": "full",
        "objective": objective,
        "training": {"max_steps": 4, "batch_size": 4, "learning_rate": 0.01,
                     "checkpoint_every": 1},
        "evaluation": {"generate": 0, "probe": False, "resamples": 100},
    } | sections  # fmt: skip


def weights(run: Run) -> dict[str, torch.Tensor]:
    (file,) = run.folder.model.glob("*.safetensors")
    return load_file(file)


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)


def test_a_run_teaches_and_a_stopped_student_goes_on_exactly(folder: Path, tmp_path: Path) -> None:
    tuned = recipe(folder, None, technique={"name": "lora", "rank": 2})
    teacher = train(tuned, runs_dir=tmp_path, name="teacher", console=SILENT)
    given = recipe(folder, {"name": "distillation", "teacher": str(teacher.path), "hidden": 0.1})
    whole = train(given, runs_dir=tmp_path, name="whole", console=SILENT)
    with stopping_at(3), pytest.raises(Interrupted):
        train(given, runs_dir=tmp_path, name="stopped", console=SILENT)
    stopped = weights(resume("stopped", runs_dir=tmp_path, console=SILENT))
    assert all(stopped[name].equal(tensor) for name, tensor in weights(whole).items())
    assert "teacher" in json.loads(whole.folder.record.read_text())["inputs"]


def test_a_class_is_taught_by_a_run(folder: Path, tmp_path: Path) -> None:
    classes: dict[str, Any] = {
        "model": model_of(folder, "bert"), "task": "classification",
        "data": {"train": str(folder / "class.jsonl")},
    }  # fmt: skip
    teacher = train(
        recipe(folder, None, **classes), runs_dir=tmp_path, name="teacher", console=SILENT
    )
    given = recipe(folder, {"name": "class_distillation", "teacher": str(teacher.path)}, **classes)
    run = train(given, runs_dir=tmp_path, name="student", console=SILENT)
    terms = [json.loads(line)["terms"] for line in run.folder.events.read_text().splitlines()]
    assert all(step["kl_to_teacher"] > 0 for step in terms)


def test_a_wider_model_teaches_by_name(folder: Path) -> None:
    given = recipe(folder, {"name": "distillation", "teacher": model_of(folder, "wide")})
    assert [t.name for t in prepare(parse_recipe(given), SILENT).objective.further] == [
        "kl_to_teacher"
    ]


def test_an_encoder_decoder_is_taught_its_targets(folder: Path, tmp_path: Path) -> None:
    pairs = [{"source": row["prompt"], "target": row["completion"]} for row in ANSWERS]
    (tmp_path / "pairs.jsonl").write_text(lines(pairs))
    model = str(tiny_model_folder(tmp_path, "t5"))
    other = str(tiny_model_folder(tmp_path, "t5", seed=5))
    given = recipe(
        folder, {"name": "distillation", "teacher": other}, model=model, task="seq2seq",
        data={"train": str(tmp_path / "pairs.jsonl")},
    )  # fmt: skip
    run = train(given, runs_dir=tmp_path, name="pairs", console=SILENT)
    terms = [json.loads(line)["terms"] for line in run.folder.events.read_text().splitlines()]
    assert all(step["kl_to_teacher"] > 0 for step in terms)


@pytest.mark.parametrize(("teacher", "options", "reason"), [
    ("wide", {"hidden": 0.5}, "64 wide"),
    ("bert", {}, "encoder"),
    ("short", {}, "reads 16 tokens"),
])  # fmt: skip
def test_a_model_that_cannot_teach_is_refused_with_the_reason(
    teacher: str, options: dict[str, Any], reason: str, folder: Path
) -> None:
    given = {"name": "distillation", "teacher": model_of(folder, teacher), **options}
    with pytest.raises(Exception, match=reason):
        prepare(parse_recipe(recipe(folder, given)), SILENT)


def test_a_pair_must_fit_text_by_text_not_as_a_whole() -> None:
    tokenizer = tiny_model("llama").tokenizer
    teacher = Teacher("it", 10, 0, tokenizer)
    fits = Encoded({name: EncodedStream((7,) * 9) for name in ("source", "target")})
    teacher.check([fits, fits], ["a:1", "a:2"])
    long = Encoded({"source": EncodedStream((7,) * 11), "target": EncodedStream((7,))})
    piece = Encoded(fits.streams, continues=True)
    with pytest.raises(RecipeError, match="reads 10 tokens, and a:2 has 11"):
        teacher.check([fits, piece, long], ["a:1", "a:2"])


def test_replayed_records_must_fit_the_teacher_too(folder: Path, tmp_path: Path) -> None:
    said = "Once upon a time there was so very much more to say than ever before"
    old = [{"prompt": f"{said} {n}", "completion": "so"} for n in range(40)]
    (tmp_path / "old.jsonl").write_text(lines(old))
    given = recipe(folder, {"name": "distillation", "teacher": model_of(folder, "mid")})
    prepare(parse_recipe(given), SILENT)
    given["retain"] = [{"name": "replay", "data": [str(tmp_path / "old.jsonl")]}]
    with pytest.raises(RecipeError, match="an old record, which begins 'user"):
        prepare(parse_recipe(given), SILENT)


def test_a_record_of_a_later_window_that_the_teacher_cannot_read_is_named(
    folder: Path, tmp_path: Path
) -> None:
    said = "Once upon a time there was so very much more to say than ever before"
    late = {"prompt": said, "completion": "so"}
    (tmp_path / "stream.jsonl").write_text(lines([*ANSWERS[:8], late]))
    (tmp_path / "test.jsonl").write_text(lines(ANSWERS[-4:]))
    given = recipe(folder, {"name": "distillation", "teacher": model_of(folder, "mid")})
    given["data"] = {"train": str(tmp_path / "stream.jsonl"), "test": str(tmp_path / "test.jsonl"),
                     "streaming": True, "window": 4}  # fmt: skip
    with pytest.raises(RecipeError, match=r"reads 80 tokens, and stream\.jsonl:9 has"):
        train(given, runs_dir=tmp_path, name="streamed", console=SILENT)


def test_another_tokenizer_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(model_of(folder, "wide"))
    text = (path / "tokenizer.json").read_text()
    changed = path.parent / "other"
    changed.mkdir(exist_ok=True)
    for file in path.iterdir():
        if file.is_file():
            (changed / file.name).write_bytes(file.read_bytes())
    swapped = text.replace('"!": 6', '"!": 7').replace('"\\"": 7', '"\\"": 6')
    (changed / "tokenizer.json").write_text(swapped)
    given = recipe(folder, {"name": "distillation", "teacher": str(changed)})
    with pytest.raises(RecipeError, match="its tokenizer is another one"):
        prepare(parse_recipe(given), SILENT)
