"""Records are encoded once: in memory, by several processes, or read back, always to the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.jobs import ANSWERS, CLASSES, lines
from tests.interrupting import state
from tests.tiny import tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.data.dataset import Dataset, load_dataset
from tunesmith.data.stored import StoredExamples
from tunesmith.errors import DataError, RunError, UnlearnableError
from tunesmith.models.cache_space import bytes_of, shelf
from tunesmith.models.load import load_model
from tunesmith.models.model import Model
from tunesmith.models.resolve import resolve
from tunesmith.runs import encoding
from tunesmith.runs.encoded_store import Store
from tunesmith.runs.encoding import encode
from tunesmith.tasks.base import Task
from tunesmith.tasks.instruct import Instruct

SILENT = Console(quiet=True)
REFUSED = {"prompt": "Say nothing", "completion": "Nothing"}


class Refusing(Instruct):
    """Finds nothing to learn in one record."""

    def encode(self, record: Any) -> Any:
        if record.answer == REFUSED["completion"]:
            raise UnlearnableError("There is nothing in it.", fix="Remove it.")
        return super().encode(record)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model_folder(folder, "llama", dropout=0.1)
    tiny_model_folder(folder, "bert", dropout=0.1)
    (folder / "answers.jsonl").write_text(lines(ANSWERS))
    (folder / "classes.jsonl").write_text(lines(CLASSES))
    return folder


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and no report that nobody reads."""
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)
    monkeypatch.setattr("tunesmith.runs.result.verify_saved", lambda *given: 0.0)


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few records be kept, and encoded by two processes."""
    monkeypatch.setattr(encoding, "_STORED_FROM", 1)
    monkeypatch.setattr(encoding, "_CHUNK_BYTES", 300)
    monkeypatch.setattr(encoding, "_PROCESS_BYTES", 300)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many records were encoded since it was last asked, in this process."""
    counts = [0]
    stock = Task.encode_all

    def encode_all(self: Task, records: Any, origins: Any = ()) -> Any:
        counts[0] += len(records)
        return stock(self, records, origins)

    monkeypatch.setattr(Task, "encode_all", encode_all)
    monkeypatch.setattr(encoding, "_processes", lambda size: 1)

    def since() -> int:
        found, counts[0] = counts[0], 0
        return found

    return since


@pytest.fixture(scope="module")
def llama(folder: Path) -> Model:
    return load_model(resolve(str(folder / "tiny-llama-0")), head="causal_lm")


def bound(model: Model, **options: Any) -> Task:
    task = Instruct(Instruct.Options(**options))
    task.bind(model)
    return task


def answers(folder: Path) -> Dataset:
    return load_dataset([str(folder / "answers.jsonl")], Instruct.Record)


def store(task: Task, model: Model, console: Console = SILENT, cache_gb: Any = "auto") -> Store:
    return Store(task, model, cache_gb, console)


def recipe(folder: Path, task: str, **training: Any) -> dict[str, Any]:
    instruct = task == "instruct"
    return {
        "model": str(folder / ("tiny-llama-0" if instruct else "tiny-bert-0")),
        "task": task,
        "data": {"train": str(folder / ("answers.jsonl" if instruct else "classes.jsonl"))},
        "technique": "full",
        "training": {"max_steps": 3, "batch_size": 4, "learning_rate": 0.01, **training},
        "evaluation": {"generate": 0, "probe": False, "resamples": 100},
    }


@pytest.mark.parametrize("task", ["instruct", "classification"])
def test_training_on_stored_examples_ends_in_the_same_bits(task, folder, monkeypatch, request):
    plain = api.train(recipe(folder, task), name="plain", console=SILENT)
    assert not shelf("encoded").exists()
    request.getfixturevalue("small_is_large")
    kept = api.train(recipe(folder, task), name="kept", console=SILENT)
    again = api.train(recipe(folder, task), name="again", console=SILENT)
    assert len(list(shelf("encoded").glob("[!.]*"))) == 2  # train and test
    assert state(kept.path) == state(plain.path) == state(again.path)
    assert kept.metrics == plain.metrics == again.metrics


@pytest.mark.usefixtures("small_is_large")
def test_a_second_run_a_check_and_an_evaluation_encode_nothing(folder, encoded):
    made = recipe(folder, "classification")
    run = api.train(made, console=SILENT)
    assert encoded() == len(CLASSES)
    api.train({**made, "technique": {"name": "lora", "rank": 2}}, console=SILENT)
    api.check(made, console=SILENT)
    api.evaluate(run, console=SILENT)
    assert encoded() == 0


def test_small_data_stays_in_memory(folder, llama):
    task = bound(llama)
    part = encode(task, answers(folder), store=store(task, llama))
    assert isinstance(part.examples, list)
    assert not shelf("encoded").exists()


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("damage", ["flip", "cut", "unfinished"])
def test_what_is_damaged_or_half_written_is_made_anew(damage, folder, llama, encoded):
    task = bound(llama)
    whole = list(encode(task, answers(folder), store=store(task, llama)).examples)
    (place,) = shelf("encoded").glob("[!.]*")
    file = place / "examples.arrow"
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    file.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    if damage == "unfinished":
        (place / "SHA256SUMS").unlink()
    encoded()
    again = encode(task, answers(folder), store=store(task, llama))
    assert encoded() == len(ANSWERS)
    assert list(again.examples) == whole
    encode(task, answers(folder), store=store(task, llama))
    assert encoded() == 0


@pytest.mark.usefixtures("small_is_large")
def test_an_interrupted_encoding_leaves_nothing(folder, llama, monkeypatch, encoded):
    task = bound(llama)

    def stop(self: Task, records: Any, origins: Any = ()) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Task, "encode_all", stop)
    with pytest.raises(KeyboardInterrupt):
        encode(task, answers(folder), store=store(task, llama))
    assert list(shelf("encoded").glob("[!.]*")) == []
    assert [path for path in shelf("encoded").glob(".*") if path.is_dir()] == []


def test_the_name_follows_from_all_that_an_encoding_depends_on(folder, llama, monkeypatch):
    texts = [record.model_dump_json() for record in answers(folder).records]
    other_texts = [*texts[:-1], texts[-1].replace("winter", "summer")]
    plain = bound(llama)
    places = {
        "plain": store(plain, llama).place(texts, drop=False),
        "other records": store(plain, llama).place(other_texts, drop=False),
        "fewer records": store(plain, llama).place(texts[:-1], drop=False),
        "dropping": store(plain, llama).place(texts, drop=True),
    }
    for name, options in {"length": {"max_length": 30}, "system": {"system": "Be brief."}}.items():
        task = bound(llama, **options)
        places[name] = store(task, llama).place(texts, drop=False)
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|im_end|>{% endfor %}"
    templated = load_model(llama.source, head="causal_lm")
    places["template"] = store(bound(templated, template=template), templated).place(
        texts, drop=False
    )
    wordy = load_model(llama.source, head="causal_lm")
    wordy.tokenizer.add_tokens(["apple"])
    places["tokenizer"] = store(bound(wordy), wordy).place(texts, drop=False)
    monkeypatch.setattr("tunesmith.runs.encoded_store.code_digest", lambda: "other")
    places["code"] = store(plain, llama).place(texts, drop=False)
    assert len(set(places.values())) == len(places), places
    monkeypatch.undo()
    same = load_model(llama.source, head="causal_lm")
    monkeypatch.setenv("TUNESMITH_HOME", str(places["plain"].parent.parent))
    assert store(bound(same), same).place(texts, drop=False) == places["plain"]


@pytest.mark.usefixtures("small_is_large")
def test_several_processes_give_what_one_gives_in_the_same_order(folder, llama):
    task = Refusing()
    task.bind(llama)
    rows = [*ANSWERS[:9], REFUSED, *ANSWERS[9:]]
    (folder / "silent.jsonl").write_text(lines(rows))
    data = load_dataset([str(folder / "silent.jsonl")], Instruct.Record)
    alone = encode(task, data, drop=True)
    several = encode(task, data, drop=True, store=store(task, llama))
    read = encode(task, data, drop=True, store=store(task, llama))
    for part in (several, read):
        assert isinstance(part.examples, StoredExamples)
        assert list(part.examples) == alone.examples
        assert part.dropped == alone.dropped
        assert part.data.origins == alone.data.origins
        assert part.tokens == alone.tokens
    assert len(alone.dropped) == 1


@pytest.mark.usefixtures("small_is_large")
def test_a_record_that_cannot_be_encoded_is_named_as_by_one_process(folder, llama):
    task = Refusing()
    task.bind(llama)
    rows = [*ANSWERS, *[REFUSED] * 12]
    (folder / "refused.jsonl").write_text(lines(rows))
    data = load_dataset([str(folder / "refused.jsonl")], Instruct.Record)
    with pytest.raises(DataError) as alone:
        encode(task, data)
    with pytest.raises(DataError) as several:
        encode(task, data, store=store(task, llama))
    assert str(several.value) == str(alone.value)
    assert f"refused.jsonl:{len(ANSWERS) + 1}" in str(several.value)
    assert list(shelf("encoded").glob("[!.]*")) == []


@pytest.mark.usefixtures("small_is_large")
def test_a_process_that_is_ended_from_outside_is_an_error_in_words(folder, llama, monkeypatch):
    first = os.getpid()

    def end(self: Task, records: Any, origins: Any = ()) -> Any:
        assert os.getpid() != first
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Task, "encode_all", end)
    task = bound(llama)
    with pytest.raises(RunError, match="ended from outside"):
        encode(task, answers(folder), store=store(task, llama))


@pytest.mark.usefixtures("small_is_large")
def test_it_says_how_many_records_a_second_and_where_they_are_kept(folder, llama, capsys):
    task = bound(llama)
    encode(task, answers(folder), store=store(task, llama, Console()))
    said = capsys.readouterr().err
    assert f"encode {len(ANSWERS)}/{len(ANSWERS)}" in said
    assert "records/s in 2 processes" in said
    assert f"kept in {shelf('encoded')}" in said.replace("\n", "")
    encode(task, answers(folder), store=store(task, llama, Console()))
    assert f"read from {shelf('encoded')}" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.usefixtures("small_is_large")
def test_without_disk_nothing_is_written(folder, llama, capsys):
    task = bound(llama)
    expected = list(encode(task, answers(folder)).examples)
    for gigabytes, note in ((0.0, ""), (1e-6, "0.001 MB of disk may be used")):
        kept = store(task, llama, Console(), gigabytes)
        assert list(encode(task, answers(folder), store=kept).examples) == expected
        assert note in capsys.readouterr().err
        assert list(shelf("encoded").glob("[!.]*")) == []


@pytest.mark.usefixtures("small_is_large")
def test_a_cache_that_cannot_be_written_is_named(folder, llama, capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "file"))
    task = bound(llama)
    part = encode(task, answers(folder), store=store(task, llama, Console(), 1.0))
    assert len(part.examples) == len(ANSWERS)
    assert "stay in memory: Could not write" in capsys.readouterr().err


@pytest.mark.usefixtures("small_is_large")
def test_old_examples_make_room_for_new_ones(folder, llama):
    task = bound(llama)
    data = answers(folder)
    encode(task, data, store=store(task, llama))
    (first,) = shelf("encoded").glob("[!.]*")
    size = bytes_of(first)
    needed = 2 * sum(len(record.model_dump_json()) for record in data.records)
    longer = bound(llama, system="Be brief.")
    kept = store(longer, llama, cache_gb=(needed + size / 2) / 1e9)
    encode(longer, data, store=kept)
    (second,) = shelf("encoded").glob("[!.]*")
    assert second != first
