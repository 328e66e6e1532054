"""Encoded records on disk: what is read back is equal to what was written, and made when asked."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.batch import NO_CLASS, Cut, Encoded, EncodedStream
from tunesmith.data.stored import (
    ChainedExamples,
    StoredExamples,
    lengths_of,
    open_tables,
    table_of,
    write_tables,
)

IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=12).map(tuple)


@st.composite
def streams(draw):
    ids = draw(IDS)
    weights = st.lists(
        st.sampled_from([0.0, 1.0, 0.1, 1 / 3]), min_size=len(ids), max_size=len(ids)
    )
    classes = st.lists(st.sampled_from([NO_CLASS, 0, 7]), min_size=len(ids), max_size=len(ids))
    return EncodedStream(
        ids, draw(st.none() | weights.map(tuple)), draw(st.none() | classes.map(tuple))
    )


EXAMPLES = st.builds(
    Encoded,
    st.dictionaries(st.sampled_from(["text", "source", "target"]), streams(), min_size=1),
    label=st.none()
    | st.integers(0, 9)
    | st.floats(allow_nan=False)
    | st.lists(st.floats(0, 1), min_size=1, max_size=3).map(tuple),
    cut=st.none() | st.builds(Cut, st.sampled_from(["start", "end"]), st.just(3), st.just(1)),
    continues=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(EXAMPLES, min_size=1, max_size=5))
def test_every_example_comes_back_equal(examples):
    found = StoredExamples([table_of(examples)])
    assert list(found) == examples
    assert [list(example.streams) for example in found] == [list(e.streams) for e in examples]
    assert found.lengths == [example.length for example in examples]
    kinds = [type(example.label) for example in examples]
    assert [type(example.label) for example in found] == kinds


def made(*ids: int) -> Encoded:
    return Encoded({"text": EncodedStream(tuple(ids))})


def test_a_file_of_several_tables_reads_as_one_sequence(tmp_path):
    parts = [[made(1), made(2, 3)], [], [made(4, 5, 6)], [made(7), made(8), made(9)]]
    write_tables(tmp_path / "examples.arrow", map(table_of, parts))
    found = StoredExamples(open_tables(tmp_path / "examples.arrow"))
    whole = list(itertools.chain(*parts))
    assert len(found) == 6
    assert list(found) == whole
    assert found[-1] == whole[-1]
    assert found[1:4] == whole[1:4]
    with pytest.raises(IndexError):
        found[6]


def test_a_chain_reads_as_its_parts_end_to_end_and_makes_only_what_is_asked_for(monkeypatch):
    stored, more = [made(1), made(2, 3)], [made(4, 5, 6)]
    found = ChainedExamples(StoredExamples([table_of(stored)]), [], more)
    assert list(found) == [*stored, *more]
    assert (found[-1], found[-3], found[0:2]) == (more[0], stored[0], stored)
    for index in (3, -4):
        with pytest.raises(IndexError):
            found[index]
    monkeypatch.setattr(StoredExamples, "__getitem__", None)
    again = ChainedExamples(StoredExamples([table_of(stored)]), more)
    assert lengths_of(again) == [1, 2, 3]
    assert again[2] == more[0]


def test_lengths_are_known_without_making_an_example(monkeypatch):
    found = StoredExamples([table_of([made(1), made(2, 3)])])
    monkeypatch.setattr(StoredExamples, "__getitem__", None)
    assert lengths_of(found) == [1, 2]


def test_a_mapped_file_outlives_its_name(tmp_path):
    file = tmp_path / "examples.arrow"
    write_tables(file, [table_of([made(1, 2)])])
    found = StoredExamples(open_tables(file))
    file.unlink()
    assert found[0] == made(1, 2)
