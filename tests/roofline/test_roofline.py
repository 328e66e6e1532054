"""What a roofline says of itself, and that it is found again where it holds, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.roofline.kept import keep, kept
from tunesmith.roofline.roofline import (
    Bandwidth,
    PageFault,
    ProductRate,
    Rate,
    Roofline,
    Surroundings,
)

QUIET = Surroundings(others=0.0, cores=2, load_average=0.1)
IDENTITY = {"device": "cpu", "threads": "2", "torch": "2.9"}


def product(dtype: str, threads: int, best: float, median: float | None = None) -> ProductRate:
    return ProductRate(dtype, threads, 512, Rate(best, median or 0.95 * best, 20))


ROOFLINE = Roofline(
    device="cpu",
    name="a processor",
    identity=IDENTITY,
    measured="2026-05-01T10:00:00Z",
    seconds=12.0,
    chosen_dtype="float32",
    products=(
        product("float32", 1, 50e9),
        product("float32", 2, 100e9),
        product("bfloat16", 1, 25e9),
        product("bfloat16", 2, 50e9),
    ),
    bandwidths=(Bandwidth("read", 1, Rate(8e9, 8e9, 5)), Bandwidth("read", 2, Rate(10e9, 9e9, 5))),
    buffer_bytes=1 << 28,
    page_fault=PageFault(4096, 2e-7, 3e-7, 9),
    surroundings=QUIET,
)


def test_a_quiet_machine_gives_no_cautions() -> None:
    assert ROOFLINE.cautions() == []


def test_a_busy_machine_is_said_in_words() -> None:
    (said,) = replace(ROOFLINE, surroundings=Surroundings(1.3, 2, 0.1)).cautions()
    assert "Other processes used 1.3 of 2 cores" in said
    assert "Measure again" in said


def test_a_queue_of_processes_before_is_said_in_words() -> None:
    (said,) = replace(ROOFLINE, surroundings=Surroundings(0.0, 2, 3.4)).cautions()
    assert "3.4 processes shared 2 cores" in said


def test_samples_that_differ_are_said_with_the_worst_of_them() -> None:
    unsteady = (product("float32", 2, 100e9, 60e9), product("bfloat16", 2, 50e9, 20e9))
    (said,) = replace(ROOFLINE, products=unsteady).cautions()
    assert "bfloat16 by 2 threads were 60% or more below" in said


def test_threads_that_make_it_slower_are_said() -> None:
    slower = (product("float32", 1, 50e9), product("float32", 2, 40e9))
    (said,) = replace(ROOFLINE, products=slower).cautions()
    assert "2 threads are slower than one" in said


def test_a_format_that_was_faster_than_the_chosen_one_is_said() -> None:
    products = (product("float32", 2, 100e9), product("bfloat16", 2, 300e9))
    (said,) = replace(ROOFLINE, products=products).cautions()
    assert "bfloat16 was 3.0 times as fast" in said
    assert "training.precision" in said


def test_arithmetic_and_memory_balance_at_their_ratio() -> None:
    assert ROOFLINE.balances == {"float32": 10.0, "bfloat16": 5.0}


def test_a_rate_that_was_not_measured_is_none() -> None:
    assert ROOFLINE.product("float32", 4) is None


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    keep(tmp_path / "rooflines", ROOFLINE)
    assert kept(tmp_path / "rooflines", IDENTITY) == ROOFLINE


def test_it_is_not_found_with_other_threads(tmp_path: Path) -> None:
    keep(tmp_path, ROOFLINE)
    assert kept(tmp_path, {**IDENTITY, "threads": "1"}) is None


def test_rooflines_of_other_threads_stand_beside_each_other(tmp_path: Path) -> None:
    one = replace(ROOFLINE, identity={**IDENTITY, "threads": "1"})
    files = {keep(tmp_path, ROOFLINE), keep(tmp_path, one)}
    assert len(files) == 2
    assert kept(tmp_path, IDENTITY) == ROOFLINE
    assert kept(tmp_path, one.identity) == one


def test_a_later_measurement_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    keep(tmp_path, ROOFLINE)
    later = replace(ROOFLINE, measured="2026-06-01T10:00:00Z")
    keep(tmp_path, later)
    assert kept(tmp_path, IDENTITY) == later
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"schema_version": 1}', '{"schema_version":9}']
)
def test_a_file_that_cannot_be_read_counts_as_not_kept(tmp_path: Path, content: str) -> None:
    keep(tmp_path, ROOFLINE).write_text(content)
    assert kept(tmp_path, IDENTITY) is None
