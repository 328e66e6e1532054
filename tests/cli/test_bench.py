"""`tunesmith bench hardware`: rates with how steady they were, and what they mean."""

from __future__ import annotations


def test_the_table_names_each_rate_with_its_middle_sample(api, command) -> None:
    said = command("bench", "hardware")
    assert said.code == 0
    for words in ("512 × 512 product, float32", "80.00 GFLOP/s", "60.00 GFLOP/s", "25.0%"):
        assert words in said.out + said.err
    assert "memory, first touch" in said.out + said.err


def test_the_balance_and_the_cost_of_fresh_memory_are_said_in_words(api, command) -> None:
    said = " ".join((lambda s: s.out + s.err)(command("bench", "hardware")).split())
    assert "fewer than 10.00 FLOPs for each byte" in said
    assert "4096 bytes for the first time takes 2.00 µs" in said
    assert "4.883 times as slowly" in said


def test_a_warning_is_shown_and_stands_in_the_document(api, command) -> None:
    said = command("bench", "hardware")
    assert "Other processes used 1.0 of 2 cores" in " ".join((said.out + said.err).split())
    document = command("bench", "hardware", "--json").document
    assert document["warnings"] == ["Other processes used 1.0 of 2 cores meanwhile."]


def test_the_document_holds_the_figures_and_where_they_are_kept(api, command) -> None:
    (device,) = command("bench", "hardware", "--json").document["devices"]
    assert device["balances"] == {"float32": 10.0}
    assert device["products"][0]["flops"]["best"] == 80e9
    assert device["file"].endswith("cpu.json")
