"""What the report says of utilisation: of what rate, from where, and how far to trust it."""

from __future__ import annotations

from typing import Any

from tunesmith.evidence.files import RoofFacts, Summary
from tunesmith.evidence.utilisation import utilisation


def said(mfu: float = 0.25, **changes: Any) -> str:
    facts = {
        "flops_per_second": 80e9, "dtype": "float32", "threads": 2, "device": "cpu",
        "source": "kept", "measured": "2026-05-01T10:00:00Z",
    }  # fmt: skip
    roof = RoofFacts(**{**facts, **changes})
    text = utilisation(Summary(schema_version=1, mfu=mfu, roof=roof))
    assert text is not None
    return text


def test_it_names_the_share_the_rate_and_what_went_into_the_model() -> None:
    text = said()
    assert "(MFU) was 25.0%" in text
    assert "80.00 GFLOP/s" in text
    assert "20.00 GFLOP/s went into the model's own arithmetic" in text
    assert "(float32, 2 threads)" in text


def test_it_says_where_the_rate_comes_from() -> None:
    assert "`tunesmith bench hardware` on 2026-05-01." in said()
    assert "for half a second at its start" in said(source="brief")


def test_a_gpu_has_no_threads() -> None:
    assert "(bfloat16, on the GPU)" in said(threads=None, dtype="bfloat16", device="cuda")


def test_a_rate_of_a_quiet_machine_leaves_no_doubt() -> None:
    assert "Other programs" not in said()
    assert "Measure it again" not in said()


def test_a_rate_of_a_busy_machine_is_doubted() -> None:
    assert "Other programs used the machine while it was measured" in said(busy=True)


def test_more_than_all_is_shown_and_explained() -> None:
    text = said(1.2)
    assert "120.0%" in text
    assert "Measure it again" in text


def test_a_run_without_a_measurement_says_nothing() -> None:
    assert utilisation(Summary(schema_version=1)) is None
    assert utilisation(Summary(schema_version=1, mfu=0.2)) is None
