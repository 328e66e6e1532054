"""Work at the verbs: what the steps are made of, and that both sides compute the same loss."""

from __future__ import annotations

import pytest
from benchmarks.verb_sides import side
from benchmarks.verb_work import WORK, Work, flat
from benchmarks.verbs import summarise

from benchmarks import verb_sides, verb_work


def test_a_step_is_the_same_whenever_it_is_made_and_another_with_another_seed() -> None:
    work = WORK["rollouts"]
    assert work.step(3) == work.step(3)
    assert work.step(3) != work.step(4)


def test_texts_of_a_group_have_their_prompt_in_common() -> None:
    groups = WORK["rollouts"].step(0)
    assert [len(group) for group in groups] == [8] * 4
    assert all(len({text.prompt for text in group}) == 1 for group in groups)
    assert {text.advantage for text in flat(groups)} == {-1.0, 1.0}


@pytest.mark.parametrize("kind", ["t5", "marian"])
def test_sides_compute_the_same_loss_of_pairs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = verb_work.configuration(kind)
    for name in ("d_model", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"):
        if hasattr(small, name):
            setattr(small, name, 32)
    monkeypatch.setattr(verb_sides, "configuration", lambda kind: small)
    groups = Work(kind, 3, 1, 32_000).step(0)

    losses = {name: side(kind, name)(groups) for name in verb_sides.SIDES}

    assert losses["padded"] == pytest.approx(losses["tunesmith"], rel=1e-4)
    assert losses["single"] == pytest.approx(losses["tunesmith"], rel=1e-4)


@pytest.mark.real_model
@pytest.mark.parametrize("kind", ["preferences", "rollouts"])
def test_sides_compute_the_same_loss_of_groups(kind: str, smollm2_path: object) -> None:
    groups = Work(kind, 2, 2, 49_000).step(0)
    short = [[verb_work.Text(t.prompt[:9], t.answer[:7], t.advantage) for t in g] for g in groups]

    losses = {name: side(kind, name)(short) for name in verb_sides.SIDES}

    assert losses["padded"] == pytest.approx(losses["tunesmith"], rel=1e-4)
    assert losses["single"] == pytest.approx(losses["tunesmith"], rel=1e-4)


def test_ratios_are_taken_within_a_round() -> None:
    def outcome(name: str, number: int, rate: float) -> dict[str, object]:
        figures = {"tokens_per_second": rate, "peak_memory_bytes": 1, "last_loss": 1.0}
        return {"kind": "t5", "side": name, "round": number, "status": "finished", **figures}

    rates = [("tunesmith", 0, 100), ("tunesmith", 1, 50), ("padded", 0, 50), ("padded", 1, 25)]
    rows = summarise([outcome(*each) for each in rates])

    assert rows[1]["faster"] == {"median": 2.0, "least": 2.0, "most": 2.0}
