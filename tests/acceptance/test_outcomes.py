"""The whole matrix: what was settled is not tried again, and the table says what came of it."""

from tests.acceptance.outcomes import Outcome, Outcomes, page

TRAINED = Outcome("lora", "instruct", "llama", "trained", "", 0.5)
REFUSED = Outcome("lora", "instruct", "bert", "refused", "It writes none.", 0.1)
FAILED = Outcome("full", "instruct", "llama", "failed", "assert", 0.2)


def test_what_failed_is_tried_again_and_the_last_outcome_counts(tmp_path) -> None:
    kept = Outcomes(tmp_path / "kept" / "outcomes.jsonl")
    for outcome in (TRAINED, REFUSED, FAILED):
        kept.add(outcome)
    assert [Outcomes(kept.file).settled(o.cell) for o in (TRAINED, REFUSED, FAILED)] == [
        True, True, False,
    ]  # fmt: skip
    kept.add(Outcome(*FAILED.cell, "trained", "", 0.2))
    assert Outcomes(kept.file).settled(FAILED.cell)


def test_outcomes_of_other_code_do_not_count(tmp_path) -> None:
    kept = Outcomes(tmp_path / "outcomes.jsonl")
    kept.add(TRAINED)
    kept.file.write_text(kept.file.read_text().replace(kept.code, "0" * 16))
    assert Outcomes(kept.file).found == {}


def test_the_page_has_a_row_for_each_technique_and_says_why_a_cell_is_refused() -> None:
    told = page([TRAINED, REFUSED, FAILED])
    assert "| technique | llama | bert |" in told
    assert "| `lora` | ✓ | [1] |" in told
    assert "| `full` | ✗ |  |" in told
    assert "1. It writes none." in told
    assert "3 cells: 1 trained, 1 refused, 1 failed." in told
