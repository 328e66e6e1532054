"""Which rate a run is held against: what was kept for this machine, else what it measures now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.tiny import tiny_model

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.data.plan import Step
from tunesmith.engine.engine import Engine
from tunesmith.models.flops import Work
from tunesmith.roofline.kept import keep
from tunesmith.roofline.measure import Effort
from tunesmith.roofline.roofline import ProductRate, Rate, Roofline, Surroundings
from tunesmith.runs import roofline as rooflines
from tunesmith.runs.roofline import identity, measure_hardware, meter_of, roof_of

CPU = torch.device("cpu")
LITTLE = Effort(products=0.02, traffic=0.02, faults=0.01, largest=256, buffer=1 << 20)
IDLE = Surroundings(0.0, 2, 0.0)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, no measurement of this process, and the threads as they were after it."""
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    rooflines._brief.cache_clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)
    rooflines._brief.cache_clear()


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of a brief measurement: 2 GFLOP/s, and a note of the format that was asked for."""
    asked: list[str] = []

    def measured(device: torch.device, dtype: torch.dtype) -> tuple[ProductRate, Surroundings]:
        asked.append(str(dtype))
        name = str(dtype).removeprefix("torch.")
        return ProductRate(name, torch.get_num_threads(), 512, Rate(2e9, 1e9, 7)), IDLE

    monkeypatch.setattr(rooflines, "brief_rate", measured)
    return asked


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_model("llama"))


def keep_here(home: Path, *, busy: bool = False) -> Roofline:
    """Keep 5 GFLOP/s in float32 for this machine with one thread."""
    found = Roofline(
        device="cpu", name="a processor", identity=identity(CPU), measured="2026-05-01T10:00:00Z",
        seconds=1.0, chosen_dtype="float32",
        products=(ProductRate("float32", 1, 512, Rate(5e9, 4e9, 9)),),
        bandwidths=(), buffer_bytes=0, page_fault=None,
        surroundings=Surroundings(1.5, 2, 0.0) if busy else IDLE,
    )  # fmt: skip
    keep(home / "rooflines", found)
    return found


def test_a_kept_rate_is_used_and_nothing_is_measured(
    home: Path, engine: Engine, briefly: list[str]
) -> None:
    keep_here(home)
    roof = roof_of(engine)
    assert (roof.flops_per_second, roof.source, roof.samples) == (5e9, "kept", 9)
    assert roof.measured == "2026-05-01T10:00:00Z"
    assert briefly == []


def test_without_a_kept_rate_it_is_measured_briefly_and_once(
    engine: Engine, briefly: list[str]
) -> None:
    roof = roof_of(engine)
    assert (roof.flops_per_second, roof.source, roof.spread) == (2e9, "brief", 0.5)
    assert roof_of(engine) == roof
    assert briefly == ["torch.float32"]


def test_a_rate_of_other_threads_is_not_used(
    home: Path, engine: Engine, briefly: list[str]
) -> None:
    keep_here(home)
    torch.set_num_threads(2)
    roof = roof_of(engine)
    assert (roof.source, roof.threads) == ("brief", 2)


def test_a_rate_in_another_format_is_not_used(home: Path, briefly: list[str]) -> None:
    keep_here(home)
    stand_in: Any = SimpleNamespace(device=CPU, dtype=torch.bfloat16)
    assert roof_of(stand_in).source == "brief"
    assert briefly == ["torch.bfloat16"]


def test_that_the_machine_was_busy_stays_with_the_rate(home: Path, engine: Engine) -> None:
    keep_here(home, busy=True)
    assert roof_of(engine).busy


def test_measuring_the_hardware_keeps_what_training_then_uses(home: Path, engine: Engine) -> None:
    measured = measure_hardware(effort=LITTLE)
    assert measured.files[0] is not None
    assert measured.files[0].parent == home / "rooflines"
    product = measured.devices[0].product("float32", 1)
    assert product is not None
    roof = roof_of(engine)
    assert (roof.source, roof.flops_per_second) == ("kept", product.flops.best)


def test_figures_that_cannot_be_kept_are_given_with_a_warning(home: Path) -> None:
    (home / "rooflines").write_text("a file in the way")
    measured = measure_hardware(effort=LITTLE)
    assert measured.files[0] is None
    assert any("could not be kept" in warning for warning in measured.warnings)


def test_a_run_that_goes_on_keeps_the_roof_of_its_record(
    home: Path, engine: Engine, briefly: list[str]
) -> None:
    recorded = asdict(roof_of(engine))
    keep_here(home)
    meter = meter_of(engine, {"roof": recorded})
    assert meter is not None
    assert asdict(meter.roof) == recorded
    assert meter.roof.source == "brief"


def test_on_another_machine_a_run_has_another_roof(
    home: Path, engine: Engine, briefly: list[str]
) -> None:
    elsewhere = replace(roof_of(engine), identity={"device": "cpu", "cpu": "another"})
    keep_here(home)
    meter = meter_of(engine, {"roof": asdict(elsewhere)})
    assert meter is not None
    assert meter.roof.source == "kept"


def test_a_model_whose_flops_cannot_be_counted_has_no_meter() -> None:
    model = SimpleNamespace(anatomy=SimpleNamespace(kind="something else", encoder=None))
    stand_in: Any = SimpleNamespace(model=model)
    assert meter_of(stand_in, {}) is None


def test_a_meter_counts_all_micro_batches_of_a_step(engine: Engine, briefly: list[str]) -> None:
    meter = meter_of(engine, {})
    assert meter is not None
    one, other = (
        collate([Encoded({"text": EncodedStream(tuple(range(3, 3 + n)), (1.0,) * n)})])
        for n in (4, 9)
    )
    expected = [meter.cost.flops(Work.of(batch)) for batch in (one, other)]
    assert min(expected) > 0
    assert meter.flops(Step((one, other), {})) == sum(expected)
    assert meter.possible(3.0) == 3.0 * 2e9
