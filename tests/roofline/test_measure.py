"""Measuring a machine: rates that can be believed, and a word where others disturbed it."""

from __future__ import annotations

import time
from collections import namedtuple
from collections.abc import Iterator

import psutil
import pytest
import torch

from tunesmith.roofline.measure import Effort, brief_rate, measure
from tunesmith.roofline.roofline import Roofline
from tunesmith.roofline.sampling import Piece, Watch, sample

CPU = torch.device("cpu")
LITTLE = Effort(products=0.05, traffic=0.05, faults=0.01, largest=256, buffer=1 << 20)


@pytest.fixture(scope="module")
def measured() -> Roofline:
    """This machine, measured with little effort."""
    return measure(CPU, "a processor", {"device": "cpu", "threads": "1"}, LITTLE)


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_a_rate_is_amount_by_time() -> None:
    (rate,) = sample([Piece(lambda: time.sleep(0.005), amount=1.0)], seconds=0.05)
    assert 2.0 < rate.best <= 200.0
    assert rate.samples >= 3


def test_no_middle_sample_is_above_the_best(measured: Roofline) -> None:
    rates = [p.flops for p in measured.products] + [b.bytes for b in measured.bandwidths]
    assert all(0.0 < rate.median <= rate.best for rate in rates)
    assert all(0.0 <= rate.spread < 1.0 for rate in rates)
    assert measured.page_fault is not None
    assert 0.0 < measured.page_fault.best <= measured.page_fault.median


def test_products_are_of_the_order_that_one_product_shows(measured: Roofline) -> None:
    a = torch.rand(256, 256)
    out = torch.empty(256, 256)
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        torch.mm(a, a.T, out=out)
        taken.append(time.perf_counter() - began)
    by_hand = 2 * 256**3 / min(taken)
    product = measured.product("float32", torch.get_num_threads())
    assert product is not None
    assert by_hand / 10 < product.flops.best < by_hand * 10


def test_a_copy_is_of_the_order_that_one_copy_shows(measured: Roofline) -> None:
    source, target = torch.ones(measured.buffer_bytes // 4), torch.zeros(measured.buffer_bytes // 4)
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        target.copy_(source)
        taken.append(time.perf_counter() - began)
    by_hand = 2 * measured.buffer_bytes / min(taken)
    copies = [b.bytes.best for b in measured.bandwidths if b.kind == "copy"]
    assert by_hand / 10 < max(copies) < by_hand * 10


def test_both_formats_and_all_kinds_of_traffic_are_measured(measured: Roofline) -> None:
    assert {p.dtype for p in measured.products} == {"float32", "bfloat16"}
    assert {b.kind for b in measured.bandwidths} == {"read", "write", "copy"}
    assert set(measured.balances) == {"float32", "bfloat16"}


def test_one_thread_and_all_threads_are_measured_and_left_as_they_were(threads: int) -> None:
    torch.set_num_threads(2)
    roofline = measure(CPU, "a processor", {}, LITTLE)
    assert {p.threads for p in roofline.products} == {1, 2}
    assert {b.threads for b in roofline.bandwidths} == {1, 2}
    assert torch.get_num_threads() == 2


def test_a_brief_measurement_leaves_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    rate, _ = brief_rate(CPU, torch.float32, seconds=0.01)
    assert rate.flops.best > 0
    assert torch.equal(torch.rand(4), expected)


Times = namedtuple("Times", ["user", "system", "idle", "guest"])


def watched(monkeypatch: pytest.MonkeyPatch, before: Times, after: Times) -> Watch:
    """A watch over a processor whose clocks went from `before` to `after`."""
    monkeypatch.setattr(psutil, "cpu_times", lambda: before)
    watch = Watch()
    monkeypatch.setattr(psutil, "cpu_times", lambda: after)
    return watch


def test_time_that_others_worked_counts_as_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watched(monkeypatch, Times(10, 5, 100, 0), Times(500, 50, 100, 0))
    assert watch.seen().busy


def test_time_in_which_the_processor_idled_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watched(monkeypatch, Times(10, 5, 100, 0), Times(10, 5, 900, 0))
    seen = watch.seen()
    assert seen.others == 0.0
    assert not seen.busy


def test_own_work_does_not_count_as_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    own = iter([1.0, 8.0])
    monkeypatch.setattr(time, "process_time", lambda: next(own))
    watch = watched(monkeypatch, Times(10, 0, 0, 0), Times(17, 0, 0, 0))
    assert watch.seen().others == 0.0
