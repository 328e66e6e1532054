"""Frozen layers are computed once: in a run, in those after it, and where one is gone on with."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.jobs import ANSWERS, CLASSES, lines
from tests.interrupting import state, train_and_kill
from tests.tiny import tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.engine.engine import Engine
from tunesmith.engine.prefix import layers_of
from tunesmith.recipes.load import parse_recipe
from tunesmith.runs import check, frozen, train
from tunesmith.runs.prepare import Prepared, prepare

EPOCHS = 10


class Listening(Console):
    """Remembers what is noted."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def about_layers(self) -> str:
        (said,) = [note for note in self.notes if note.startswith("Frozen layer")]
        return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for family in ("llama", "bert"):
        tiny_model_folder(folder, family, dropout=0.1)
    (folder / "answers.jsonl").write_text(lines(ANSWERS))
    (folder / "classes.jsonl").write_text(lines([*CLASSES, *CLASSES[:3]]))
    return folder


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)
    monkeypatch.setattr("tunesmith.runs.result.verify_saved", lambda *given: 0.0)


def recipe(folder: Path, technique: object, family: str = "bert", **training: object) -> Any:
    steps = {"learning_rate": 0.01, "batch_size": 8, "validate_every": 5}
    task = "classification" if family == "bert" else {"name": "instruct", "max_new_tokens": 3}
    data = "classes" if family == "bert" else "answers"
    return {
        "model": str(folder / f"tiny-{family}-0"),
        "task": task,
        "data": {"train": str(folder / f"{data}.jsonl")},
        "technique": technique,
        "training": {**steps, **training},
        "evaluation": {"generate": 0, "probe": False, "resamples": 100},
    }


HEAD = {"name": "layers", "last": 0}
LAST = {"name": "layers", "last": 1}


@pytest.fixture
def tokens_computed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Tokens that went through the lowest layer from the first measurement to the last."""
    counts: list[int] = []
    counting = False

    def note(module: object, given: tuple[Any, ...]) -> None:
        if counting:
            counts.append(given[0].shape[0] * given[0].shape[1])

    def start(*given: Any) -> None:
        nonlocal counting
        counting = True
        layer = layers_of(given[1].engine.model)[0]
        next(layer.children()).register_forward_pre_hook(
            lambda module, args, kwargs: note(module, args or tuple(kwargs.values())),
            with_kwargs=True,
        )
        frozen.keep(*given)

    def stop(*given: Any) -> Any:
        nonlocal counting
        counting = False
        return compare(*given)

    compare = train.compare_run
    monkeypatch.setattr(train, "keep", start)
    monkeypatch.setattr(train, "compare_run", stop)

    def total() -> int:
        found = sum(counts)
        counts.clear()
        return found

    return total


def once(made: Any) -> int:
    """Tokens of all texts of a run, each text of a part once."""
    prepared = prepare(parse_recipe(made), Console(quiet=True))
    return sum(
        sum({example.streams["text"].ids: example.length for example in examples}.values())
        for examples in frozen._parts(prepared).values()
    )


@pytest.mark.parametrize(
    ("family", "technique"),
    [("bert", HEAD), ("bert", LAST), ("bert", "repurpose"), ("llama", LAST)],
)
def test_ten_epochs_cost_one_pass_and_a_second_run_none(
    family, technique, folder, tokens_computed
) -> None:
    made = recipe(folder, technique, family, epochs=EPOCHS)
    made["evaluation"]["probe"] = True
    console = Listening()
    api.train(made, console=console)
    computed = tokens_computed()
    if family == "llama":  # beginnings that texts have in common are computed once as well
        assert 0.9 * once(made) < computed <= once(made)
    else:
        assert computed == once(made)
    assert "computed once" in console.about_layers()
    again = Listening()
    api.train({**made, "training": {**made["training"], "learning_rate": 0.02}}, console=again)
    assert tokens_computed() == 0
    assert "computed before" in again.about_layers()


def test_a_short_run_computes_only_the_texts_that_it_sees(folder, tokens_computed) -> None:
    made = recipe(folder, HEAD, max_steps=1)
    made["data"] |= {"test": 2 / 23, "validation": 2 / 23}
    api.train(made, console=Console(quiet=True))
    prepared = prepare(parse_recipe(made), Console(quiet=True))
    assert len(frozen._parts(prepared)["train"]) <= 8 < len(prepared.train.examples)
    assert tokens_computed() == once(made)


def test_without_disk_they_are_computed_in_every_pass(folder, tokens_computed) -> None:
    made = recipe(folder, HEAD, epochs=EPOCHS, cache_gb=0.0)
    console = Listening()
    api.train(made, console=console)
    assert tokens_computed() > EPOCHS * 0.6 * once(made)
    assert console.about_layers() == (
        "Frozen layers 1-2 of 2 computed in every pass: training.cache_gb is 0."
    )
    assert not frozen.frozen_folder().exists()


@pytest.mark.parametrize(("family", "technique"), [("bert", HEAD), ("bert", LAST), ("llama", LAST)])
def test_losses_and_metrics_are_those_of_computing_every_time(family, technique, folder) -> None:
    made = recipe(folder, technique, family, epochs=3, precision="float32")
    kept, computed = (
        api.train(put, name=name, console=Console(quiet=True))
        for name, put in (
            ("kept", made),
            ("computed", {**made, "training": {**made["training"], "cache_gb": 0.0}}),
        )
    )
    losses = [
        [json.loads(line).get("loss") for line in (run.path / "events.jsonl").open()]
        for run in (kept, computed)
    ]
    assert [loss is None for loss in losses[0]] == [loss is None for loss in losses[1]]
    for ours, theirs in zip(*losses, strict=True):
        assert ours == theirs or ours == pytest.approx(theirs, rel=1e-5)
    assert json.loads((kept.path / "record.json").read_text())["frozen"]["refused"] is None
    for name, row in computed.metrics["metrics"].items():
        assert kept.metrics["metrics"][name]["before"] == pytest.approx(row["before"], rel=1e-5)
        assert kept.metrics["metrics"][name]["after"] == pytest.approx(row["after"], rel=1e-4)


@pytest.mark.parametrize(
    ("family", "technique", "lost"), [("bert", HEAD, True), ("llama", LAST, False)]
)
def test_a_run_that_was_killed_ends_with_the_same_bits(family, technique, lost, folder) -> None:
    made = recipe(folder, technique, family, epochs=2, checkpoint_every=1)
    whole = api.train(made, name="whole", console=Console(quiet=True))
    train_and_kill(made, at=4)
    if lost:
        shutil.rmtree(frozen.frozen_folder())
    resumed = api.resume("killed", console=Console(quiet=True))
    assert state(resumed.path) == state(whole.path)
    assert resumed.metrics == whole.metrics


def test_a_resumed_run_takes_the_decision_of_its_record(folder, monkeypatch) -> None:
    made = recipe(folder, HEAD, checkpoint_every=1)
    monkeypatch.setattr(frozen, "reading_rate", lambda folder: 1.0)
    train_and_kill(made, at=2)
    monkeypatch.setattr(frozen, "reading_rate", lambda folder: 1e12)
    console = Listening()
    api.resume("killed", console=console)
    assert "would take as long" in console.about_layers()


@pytest.fixture
def prepared(folder: Path) -> Callable[..., Prepared]:
    def make(technique: object = HEAD, family: str = "bert", **training: object) -> Prepared:
        made = recipe(folder, technique, family, **training)
        return prepare(parse_recipe(made), Console(quiet=True))

    return make


def test_what_would_not_fit_the_disk_is_not_kept(prepared) -> None:
    found = frozen.decide(prepared(cache_gb=1e-6))
    assert found.refused == f"they would take {found.bytes / 1e6:.2g} MB, and 0.001 MB may be used"


def test_what_is_read_more_slowly_than_computed_is_not_kept(prepared, monkeypatch) -> None:
    monkeypatch.setattr(frozen, "reading_rate", lambda folder: 1000.0)
    assert "would take as long" in frozen.decide(prepared()).refused


def test_a_cache_that_cannot_be_written_is_named(prepared, monkeypatch) -> None:
    def refuse(folder: Path) -> float:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(frozen, "reading_rate", refuse)
    assert frozen.decide(prepared()).refused.endswith("cannot be written (Permission denied)")


@pytest.mark.parametrize("technique", ["full", {"name": "lora", "rank": 2}])
def test_nothing_is_said_where_every_layer_learns(technique, prepared) -> None:
    assert frozen.decide(prepared(technique)) is None


def test_rows_are_named_after_all_that_they_depend_on(prepared, folder) -> None:
    mean, cls = ({"name": "repurpose", "pooling": pooling} for pooling in ("mean", "cls"))
    base = {"precision": "float32"}
    jobs = {
        "head": prepared(HEAD, **base),
        "last layer": prepared(LAST, **base),
        "mean": prepared(mean, **base),
        "cls": prepared(cls, **base),
        "bfloat16": prepared(HEAD, precision="bfloat16"),
        "padded": prepared(HEAD, packing=False, **base),
        "other texts": prepared(HEAD, seed=1, **base),
    }
    other = prepared(HEAD, **base)
    next(other.engine.prefix.modules[0].parameters()).data[-1] += 1
    jobs["other weights"] = other
    names = {job: frozen.decide(made).parts["train"] for job, made in jobs.items()}
    assert len(set(names.values())) == len(names), names
    longer = prepared(HEAD, epochs=3, learning_rate=0.5, **base)
    assert frozen.decide(longer).parts["train"] == names["head"]


def test_a_check_counts_frozen_layers_once(prepared) -> None:
    seconds = []
    for cache in (0.0, "auto"):
        job = prepared(HEAD, epochs=50, cache_gb=cache)
        layer = layers_of(job.engine.model)[0]
        layer.register_forward_pre_hook(lambda module, given: time.sleep(0.02))
        seconds.append(check.estimated_seconds(job))
        assert job.engine.kept is None
    assert seconds[0] > 2.0
    assert seconds[1] < seconds[0] / 2


def test_the_record_says_what_was_decided(folder) -> None:
    run = api.train(recipe(folder, LAST, max_steps=1), console=Console(quiet=True))
    record = json.loads((run.path / "record.json").read_text())["frozen"]
    assert (record["layers"], record["of"], record["per"]) == (1, 2, "token")
    assert record["refused"] is None
    kept = [frozen.frozen_folder() / name / "rows.bin" for name in record["parts"].values()]
    assert sum(file.stat().st_size for file in kept) == record["bytes"]


def test_old_rows_make_room_for_new_ones(folder) -> None:
    first = recipe(folder, HEAD, max_steps=1)
    api.train(first, console=Console(quiet=True))
    size = sum(frozen.bytes_at(place) for place in frozen.frozen_folder().glob("*"))
    second = recipe(folder, HEAD, max_steps=1, seed=1, cache_gb=1.5 * size / 1e9)
    api.train(second, console=Console(quiet=True))
    assert sum(frozen.bytes_at(place) for place in frozen.frozen_folder().glob("*")) <= 1.5 * size


def test_utilisation_does_not_count_what_was_kept(folder) -> None:
    flops = []
    for cache in (0.0, "auto"):
        made = recipe(folder, LAST, max_steps=1, cache_gb=cache)
        events = (api.train(made, console=Console(quiet=True)).path / "events.jsonl").open()
        flops.append(json.loads(next(events))["flops"])
    assert flops[1] < 0.85 * flops[0]


def test_the_engine_of_a_finished_run_keeps_nothing(folder) -> None:
    run = api.train(recipe(folder, HEAD, max_steps=1), console=Console(quiet=True))
    engine: Engine = run.engine("tuned")
    assert engine.kept is None
    assert run.predict(["The apple was fine"])[0].text in ("good", "bad")
