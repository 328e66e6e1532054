"""Windows follow from where they begin; steps from the state that each carries for the next."""

from __future__ import annotations

import itertools
import json
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.batch import Encoded, EncodedStream
from tunesmith.data.records import Document, LabelledText, RankedTexts
from tunesmith.data.streamed_plan import Laid, StreamedPlan
from tunesmith.data.streaming import Position, Stream, Window
from tunesmith.errors import DataError, RunError
from tunesmith.recipes.data import DataOptions

SIZES = (5, 1, 9, 3)


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Four files of a few texts, numbered through."""
    number, names = 0, []
    for place, size in enumerate(SIZES):
        file = tmp_path / f"{place}.jsonl"
        rows = [json.dumps({"text": str(number + i)}) + "\n" for i in range(size)]
        file.write_text("".join(rows))
        number += size
        names.append(str(file))
    return names


def stream(shards: list[str], window: int, **options: Any) -> Stream:
    made = {"train": shards, "test": "test.jsonl", "streaming": True, "window": window, **options}
    return Stream(Document, DataOptions.model_validate(made))


def texts(window: Window) -> list[int]:
    return [int(record.text) for record in window.data.records]


def windows(stream: Stream, count: int, position: Position = Position()) -> list[Window]:  # noqa: B008
    found = []
    for _ in range(count):
        found.append(stream.window(position))
        position = found[-1].after
    return found


@pytest.mark.parametrize("size", [1, 4, 6, 18, 100])
def test_windows_lie_end_to_end_over_all_shards_and_begin_again(size, shards):
    made = stream(shards, size)
    per_pass = -(-sum(SIZES) // size)
    found = windows(made, 2 * per_pass)
    once = [number for window in found[:per_pass] for number in texts(window)]
    assert once == list(range(sum(SIZES)))
    assert [texts(w) for w in found[per_pass:]] == [texts(w) for w in found[:per_pass]]
    assert [w.after.passes for w in found[per_pass - 1 :]] == [1] * per_pass + [2]
    assert found[per_pass - 1].after == Position(passes=1)


def test_a_window_comes_again_from_its_position_alone(shards):
    found = windows(stream(shards, 4), 5)
    for before, after in itertools.pairwise(found):
        again = stream(shards, 4).window(before.after)
        assert texts(again) == texts(after)
        assert again.after == after.after
        assert again.data.origins == after.data.origins


def test_the_format_is_told_by_the_beginning_of_a_source_wherever_a_window_begins(tmp_path):
    file = tmp_path / "mixed.jsonl"
    odd = {"messages": [], "text": "b", "label": "x"}  # alone it would be read as something else
    rows = [{"text": "a", "label": "x"}] * 4 + [odd]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"train": [str(file)], "test": "t.jsonl", "streaming": True, "window": 4}
    made = Stream(LabelledText, DataOptions.model_validate(options))
    last = windows(made, 2)[1]
    assert last.data.format == "text_label"
    assert last.data.records[0].text == "b"


def test_a_record_that_does_not_fit_is_named_when_its_window_comes(shards):
    with Path(shards[2]).open("a") as file:
        file.write('{"txt": "no"}\n')
    made = stream(shards, 5)
    first = made.window(Position())
    with pytest.raises(DataError, match=r"2.jsonl:10"):
        windows(made, 3, first.after)


def test_what_is_left_out_is_counted_by_its_window(shards):
    with Path(shards[0]).open("a") as file:
        file.write('{"text": " "}\n')
    first = stream(shards, 6, unlearnable="drop").window(Position())
    assert texts(first) == [0, 1, 2, 3, 4]
    assert [lost.origin for lost in first.data.dropped] == ["0.jsonl:6"]


def test_a_source_without_records_is_an_error(tmp_path):
    (tmp_path / "none.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="no records"):
        stream([str(tmp_path / "none.jsonl")], 4).window(Position())


def ranked(tmp_path: Path, queries: str, size: int, **options: Any) -> list[list[tuple[str, int]]]:
    """The queries of each window of a pass, and how many documents each has."""
    name = options.get("columns", {}).get("query", "query")
    rows = [{name: q, "document": f"d{n}", "relevance": n % 2} for n, q in enumerate(queries)]
    file = tmp_path / "ranked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = {"train": [str(file)], "test": "t.jsonl", "streaming": True, "window": size, **options}
    found, position = [], Position()
    stream = Stream(RankedTexts, DataOptions.model_validate(made))
    while not position.passes:
        window = stream.window(position)
        found.append([(record.text, len(record.documents)) for record in window.data.records])
        position = window.after
    return found


@pytest.mark.parametrize("columns", [{}, {"query": "asked"}])
def test_the_documents_of_a_query_stay_together_wherever_a_window_would_end(tmp_path, columns):
    found = ranked(tmp_path, "aaabbbbcdd", 4, columns=columns)
    assert found == [[("a", 3), ("b", 4)], [("c", 1), ("d", 2)]]


def test_a_query_that_ends_with_its_window_takes_nothing_of_the_next(tmp_path):
    assert ranked(tmp_path, "aaabbb", 3) == [[("a", 3)], [("b", 3)]]


# Steps


def lay(stream: Stream, length: int = 2) -> Any:
    """Encodes a text as a few tokens that say its number."""

    def laid(position: Position) -> Laid:
        window = stream.window(position)
        examples = [Encoded({"text": EncodedStream((n,) * length)}) for n in texts(window)]
        return Laid(examples, window.after, {"records": len(examples)})

    return laid


def plan(laid: Any, steps: int = 24, **options: Any) -> StreamedPlan:
    made = {"batch_size": 3, "tokens_per_batch": 4, "max_steps": steps, "seed": 5, **options}
    return StreamedPlan(laid, lambda batch: {"n": float(len(batch))}, **made)


def seen(step: Any) -> list[int]:
    return [int(batch.text.ids_T[start]) for batch in step for start in batch.text.cu_seqlens[:-1]]


def test_every_record_is_seen_once_a_pass_in_a_new_order_each_time(shards):
    steps = plan(lay(stream(shards, 6)), steps=12)
    found = [seen(steps[number]) for number in range(12)]
    steps.close()
    passes = [[n for step in found[at : at + 6] for n in step] for at in (0, 6)]
    assert [sorted(numbers) for numbers in passes] == [list(range(18))] * 2
    assert passes[0] != passes[1]
    assert sorted(passes[0][:6]) == list(range(6))  # shuffled within a window, not beyond
    other = plan(lay(stream(shards, 6)), steps=12, seed=6)
    assert [seen(other[number]) for number in range(6)] != found[:6]
    other.close()


@pytest.mark.parametrize("window", [4, 6, 18, 100])
def test_from_the_state_of_any_step_on_the_same_steps_come(window, shards):
    whole = plan(lay(stream(shards, window)))
    steps = [whole[number] for number in range(24)]
    whole.close()
    for place in range(23):
        state = json.loads(json.dumps(steps[place].after))
        rest = plan(lay(stream(shards, window)), state=state, first=place + 1)
        for number in range(place + 1, min(place + 9, 24)):
            assert seen(rest[number]) == seen(steps[number])
            assert rest.epoch(number + 1) == steps[number].after["position"]["passes"]
        assert rest[number + 1].after == steps[number + 1].after if number < 23 else True
        rest.close()


def test_what_was_read_is_added_up_over_windows_and_interruptions(shards):
    whole = plan(lay(stream(shards, 7)))
    steps = [whole[number] for number in range(24)]
    whole.close()
    assert steps[0].after["read"] == {"records": 7}
    assert steps[6].after["read"] == {"records": 18}
    assert steps[8].after["read"] == {"records": 25}
    rest = plan(lay(stream(shards, 7)), state=steps[7].after, first=8)
    assert rest[8].after["read"] == {"records": 25}
    rest.close()


def test_what_was_met_before_an_interruption_is_judged_with_what_comes_after(shards):
    inner, told = lay(stream(shards, 6)), []

    def laid(position: Position) -> Laid:
        window = inner(position)
        return Laid(window.examples, window.after, window.counts, frozenset({position.number}))

    whole = plan(laid, judge=lambda met: told.append(met))
    steps = [whole[number] for number in range(6)]
    whole.close()
    assert told[2] > told[0]
    kept = json.loads(json.dumps(steps[3].after))
    rest = plan(laid, judge=lambda met: told.append(met), state=kept, first=4)
    assert rest[4].after == steps[4].after
    rest.close()
    assert told[-1] == told[2]


def test_the_next_window_is_read_while_this_one_is_learnt_from(shards):
    second = threading.Event()
    inner = lay(stream(shards, 6))

    def laid(position: Position) -> Laid:
        if position != Position():
            second.set()
        return inner(position)

    steps = plan(laid)
    steps[0]
    assert second.wait(60)
    steps.close()


def test_steps_are_asked_for_in_their_order(shards):
    steps = plan(lay(stream(shards, 6)))
    with pytest.raises(IndexError, match="stands at 0"):
        steps[1]
    steps.close()


def test_a_step_that_must_be_one_pass_is_refused_where_it_is_not(shards):
    steps = plan(lay(stream(shards, 6)), one_pass="this objective compares all records")
    with pytest.raises(RunError, match="more than one pass takes, and this objective compares"):
        steps[0]
    steps.close()


def test_windows_of_which_nothing_is_learnt_are_passed_over_and_all_of_them_are_an_error(shards):
    made = stream(shards, 6)

    def laid(position: Position, barren: bool = False) -> Laid:
        window = made.window(position)
        kept = [] if barren or position == Position() else texts(window)
        return Laid(
            [Encoded({"text": EncodedStream((n, n))}) for n in kept], window.after, {"records": 1}
        )

    steps = plan(laid)
    assert set(seen(steps[0])) <= set(range(6, 12))
    assert steps[1].after["before"] == {"records": 1}
    steps.close()
    steps = plan(lambda position: laid(position, barren=True))
    with pytest.raises(DataError, match="Nothing would be learnt"):
        steps[0]
    steps.close()


def test_memory_is_that_of_two_windows_however_much_there_is(tmp_path):
    peaks = []
    for count in (600, 2_400):
        file = tmp_path / f"{count}.jsonl"
        with file.open("w") as lines:
            for number in range(count):
                lines.write(json.dumps({"text": str(number), "more": "word " * 100}) + "\n")
        tracemalloc.start()
        steps = plan(lay(stream([str(file)], 64), length=50), steps=count // 3 - 60)
        for number in range(len(steps)):
            steps[number]
        steps.close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0]
    assert peaks[1] < 2 * 2**20
