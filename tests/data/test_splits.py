"""Splits: nothing tested was learnt from, nothing is lost, the same seed gives the same split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.dataset import Dataset
from tunesmith.data.records import Document, LabelledText, content_key
from tunesmith.data.splits import hold_out, load_splits, split
from tunesmith.errors import DataError

shares = st.floats(0.05, 0.6)
seeds = st.integers(0, 2**31)


def dataset(records: list[Any], groups: list[str] | None = None) -> Dataset:
    return Dataset(records, [f"a:{i}" for i in range(len(records))], "text", groups)


def documents(texts: list[str]) -> Dataset:
    return dataset([Document(text=text) for text in texts])


def options(**changes: Any) -> Any:
    defaults = {
        "train": ["train.txt"], "test": 0.2, "validation": None, "format": "auto", "group": None,
        "columns": {}, "stratify": True, "unlearnable": "error", "streaming": False,
    }  # fmt: skip
    return SimpleNamespace(**(defaults | changes))


def parted(data: Dataset, share: float, seed: int, stratify: bool = True) -> Any:
    """Hold out, or None where not one record may leave train."""
    try:
        return hold_out(data, share, "test", stratify, (seed,))
    except DataError:
        return None


@given(st.lists(st.sampled_from("abcdefghijklmnop"), min_size=2, max_size=40), shares, seeds)
def test_every_record_is_on_one_side_and_no_duplicate_crosses(
    texts: list[str], share: float, seed: int
) -> None:
    data = documents(texts)
    if sides := parted(data, share, seed):
        kept, held = sides
        assert sorted(kept.origins + held.origins) == sorted(data.origins)
        assert not {*map(content_key, kept.records)} & {*map(content_key, held.records)}
        assert len(kept)
        assert len(held)


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=40), shares, seeds)
def test_no_group_crosses(groups: list[str], share: float, seed: int) -> None:
    data = dataset([Document(text=str(i)) for i in range(len(groups))], groups)
    if sides := parted(data, share, seed):
        kept, held = sides
        assert not {*kept.groups} & {*held.groups}
        assert len(kept) + len(held) == len(groups)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=2, max_size=20),
    shares,
    seeds,
)
def test_neither_crosses_where_duplicates_join_groups(
    pairs: list[tuple[str, str]], share: float, seed: int
) -> None:
    data = dataset([Document(text=text) for text, _ in pairs], [group for _, group in pairs])
    if sides := parted(data, share, seed):
        kept, held = sides
        assert not {*kept.groups} & {*held.groups}
        assert not {*map(content_key, kept.records)} & {*map(content_key, held.records)}


@given(st.lists(st.integers(2, 25), min_size=1, max_size=5), shares, seeds)
def test_each_class_has_its_share_within_one_record(
    sizes: list[int], share: float, seed: int
) -> None:
    records = [
        LabelledText(text=f"{label} {i}", label=str(label))
        for label, size in enumerate(sizes)
        for i in range(size)
    ]
    if sides := parted(dataset(records), share, seed):
        held = Counter(record.label for record in sides[1].records)
        for label, size in enumerate(sizes):
            assert abs(held[str(label)] - share * size) <= 1
            assert held[str(label)] < size


@given(st.integers(5, 60), shares, seeds)
def test_a_share_of_distinct_records_is_that_share(count: int, share: float, seed: int) -> None:
    sides = parted(documents([str(i) for i in range(count)]), share, seed)
    assert (len(sides[1]) if sides else 0) == round(share * count)


@given(seeds)
def test_the_same_seed_gives_the_same_split(seed: int) -> None:
    data = documents([str(i) for i in range(30)])
    one, other = (split(options(), data, needs_validation=True, seed=seed) for _ in range(2))
    assert one == other


def test_another_seed_gives_another_split() -> None:
    data = documents([str(i) for i in range(30)])
    one, other = (split(options(), data, needs_validation=False, seed=s) for s in (1, 2))
    assert one.test.origins != other.test.origins


def test_a_class_of_one_record_stays_in_train() -> None:
    records = [LabelledText(text=str(i), label="many") for i in range(20)]
    records.append(LabelledText(text="rare", label="one"))
    for seed in range(20):
        kept, _ = hold_out(dataset(records), 0.3, "test", True, (seed,))
        assert "one" in {record.label for record in kept.records}


def test_duplicates_are_told_without_case_and_white_space() -> None:
    kept, held = hold_out(documents(["A  b", "a b\n", "c", "d", "e", "f"]), 0.4, "test", True, (3,))
    assert {"a:0", "a:1"} <= {*kept.origins} or {"a:0", "a:1"} <= {*held.origins}


def test_validation_is_split_from_train_when_something_is_selected_by_it() -> None:
    data = documents([str(i) for i in range(100)])
    parts = split(options(), data, needs_validation=True, seed=0)
    assert parts.validation is not None
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (72, 8, 20)
    assert split(options(), data, needs_validation=False, seed=0).validation is None


def test_the_test_set_does_not_depend_on_whether_there_is_a_validation_set() -> None:
    data = documents([str(i) for i in range(100)])
    one, other = (split(options(), data, needs_validation=n, seed=0) for n in (True, False))
    assert one.test == other.test


def test_validation_that_is_asked_for_is_made() -> None:
    data = documents([str(i) for i in range(100)])
    parts = split(options(validation=0.5), data, needs_validation=False, seed=0)
    assert parts.validation is not None
    assert len(parts.validation) == 40


@pytest.mark.parametrize("texts", [["one"], ["same", "same"], ["a", "b"]])
def test_a_share_that_is_no_record_is_an_error(texts: list[str]) -> None:
    with pytest.raises(DataError, match=r"test share of 0\.2 of"):
        split(options(), documents(texts), needs_validation=False, seed=0)


def test_files_are_read_and_kept_as_they_are(tmp_path: Path) -> None:
    for name, texts in {"train": "abcdef", "test": "gh", "dev": "i"}.items():
        lines = [f'{{"text": "{text}"}}' for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    chosen = options(train=["train.jsonl"], test="test.jsonl", validation="dev.jsonl")
    parts = load_splits(chosen, Document, needs_validation=True, seed=0, base=tmp_path)
    assert parts.validation is not None
    assert parts.train.origins == [f"train.jsonl:{i}" for i in range(1, 7)]
    assert parts.test.origins == ["test.jsonl:1", "test.jsonl:2"]
    assert parts.validation.origins == ["dev.jsonl:1"]
    assert parts.warnings == []


def test_a_test_file_that_stands_in_train_is_an_error() -> None:
    train = documents(["a", "b", "c"])
    with pytest.raises(DataError, match=r"The whole test set .*\(2 of 2; a:0 = a:1, a:1 = a:0\)"):
        split(options(test="t"), train, documents(["B", "a"]), needs_validation=False, seed=0)


def test_a_test_file_of_which_half_stands_in_train_is_an_error() -> None:
    with pytest.raises(DataError, match="1 of 2 records of test set"):
        split(
            options(test="t"),
            documents(["a", "b"]),
            documents(["a", "z"]),
            needs_validation=False,
            seed=0,
        )


def test_a_small_overlap_is_a_warning_with_examples() -> None:
    test = documents([str(i) for i in range(10)])
    train = documents(["7", "x", "y"])
    parts = split(options(test="t"), train, test, needs_validation=False, seed=0)
    assert parts.warnings == ["1 of 10 test records also stand in train: a:7 = a:0"]


def test_validation_that_overlaps_with_test_is_told() -> None:
    train, test = documents(["p", "q"]), documents(["a", "b", "c", "d"])
    validation = documents(["d", "e"])
    parts = split(
        options(test="t", validation="v"), train, test, validation, needs_validation=True, seed=0
    )
    assert parts.warnings == ["1 of 4 test records also stand in validation: a:3 = a:0"]


def test_groups_that_cross_given_files_are_told() -> None:
    train = dataset([Document(text="a")], ["film 1"])
    test = dataset([Document(text="b")], ["film 1"])
    parts = split(options(test="t"), train, test, needs_validation=False, seed=0)
    assert parts.warnings == ["Groups with records in both test and train: 1 (film 1)"]
