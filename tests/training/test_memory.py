"""What a step is expected to hold, measured on a few tokens, against what it does hold."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.engine.test_equality import DECODERS, ENCODERS, engine_for
from tests.engine.test_sharing import alike, spy
from tests.tiny import tiny_model

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.checkpointing import Checkpointed
from tunesmith.engine.engine import Engine
from tunesmith.kernels.tensor_memory import bytes_idle, bytes_touched
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import TECHNIQUES
from tunesmith.training.memory import (
    Memory,
    MicroBatch,
    largest_micro_batch,
    resident_bytes,
)


def documents(lengths: list[int]) -> list[Encoded]:
    draw = torch.Generator().manual_seed(0)
    return [
        Encoded(
            {"text": EncodedStream(tuple(torch.randint(10, 90, (n,), generator=draw).tolist()))}
        )
        for n in lengths
    ]


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_what_layers_keep_is_foretold_from_a_few_tokens(family: str) -> None:
    head = {"head": "classification", "labels": ("a", "b")} if family in ENCODERS else {}
    engine = engine_for(tiny_model(family, **head))
    batch = collate(documents([50, 40, 60, 30, 20]))
    held = engine.held(batch)
    foretold = Memory(engine)._held.at(MicroBatch.of(batch, engine))
    assert sum(foretold.inside) == pytest.approx(sum(held.inside), rel=0.1)
    assert sum(foretold.inputs) == pytest.approx(sum(held.inputs), rel=0.01)


def test_a_shared_beginning_counts_once() -> None:
    engine = engine_for(tiny_model("llama"))
    batch, objective = collate(alike()), TokenLikelihood()
    rows = spy(engine)
    engine.forward_backward(batch, objective, objective.counts(batch))
    assert MicroBatch.of(batch, engine).tokens == sum(rows) < batch.tokens


def test_padding_counts() -> None:
    engine = engine_for(tiny_model("llama"), packing=False)
    size = MicroBatch.of(collate(documents([50, 20])), engine)
    assert (size.tokens, size.squares) == (100, 5000)


def test_what_the_process_holds_already_is_part_of_the_peak() -> None:
    engine = engine_for(tiny_model("llama"))
    size = MicroBatch.of(collate(documents([50, 20])), engine)
    estimate = Memory(engine).estimate(size, Checkpointed())
    assert estimate.process + estimate.weights + bytes_idle() == pytest.approx(
        resident_bytes(), rel=0.05
    )


def test_memory_that_tensors_have_let_go_is_not_counted_twice() -> None:
    engine = engine_for(tiny_model("llama"))
    assert engine.memory.exact, engine.memory.reason
    size = MicroBatch.of(collate(documents([50, 20])), engine)
    before = Memory(engine).estimate(size, Checkpointed()).process
    let_go = torch.ones(bytes_touched() // 4 + 25_000_000).nbytes  # beyond all that was touched
    after = Memory(engine).estimate(size, Checkpointed()).process
    assert let_go >= 10**8
    assert after == pytest.approx(before, abs=2 * 10**7)


def test_memory_that_was_asked_for_and_never_written_is_not_taken_for_the_processs() -> None:
    engine = engine_for(tiny_model("llama"))
    size = MicroBatch.of(collate(documents([50, 20])), engine)
    before = Memory(engine).estimate(size, Checkpointed()).process
    never_written = torch.empty(bytes_touched() + 10**9, dtype=torch.uint8).nbytes
    after = Memory(engine).estimate(size, Checkpointed()).process
    assert never_written > 10**9
    assert after == pytest.approx(before, abs=2 * 10**7)


@pytest.mark.parametrize("technique", ["prompt_tuning", "p_tuning", "prefix_tuning"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_virtual_tokens_are_foretold_with_every_text(family: str, technique: str) -> None:
    head = {"head": "classification", "labels": ("a", "b")} if family in ENCODERS else {}
    model = tiny_model(family, **head)
    kind = TECHNIQUES.get(technique)
    method = kind(kind.Options(length=30))
    method.prepare(model)
    engine = Engine(model, method.parameter_groups(model))
    for lengths in ([80, 80], [5] * 12):
        batch = collate(documents(lengths))
        held = engine.held(batch)
        foretold = Memory(engine)._held.at(MicroBatch.of(batch, engine))
        assert sum(foretold.inside) == pytest.approx(sum(held.inside), rel=0.15)


def test_of_a_task_whose_head_is_its_own_no_vocabulary_is_counted() -> None:
    """The longest texts are another task's than those that are written."""
    engine = engine_for(tiny_model("llama"))
    mood = tiny_model("llama", head="classification", labels=("a", "b"))
    engine.model.members = {"chat": engine.model, "mood": mood}
    texts = collate(documents([400] * 4))
    learnt = [Encoded({"text": EncodedStream(tuple(range(10, 30)), (1.0,) * 20)})]
    batches = replace(collate(learnt), member="chat"), replace(texts, member="mood")
    largest = largest_micro_batch([SimpleNamespace(batches=batches)], engine)
    assert (largest.member, largest.targets) == ("mood", 0)
    assert [(other.member, other.targets) for other in largest.others] == [("chat", 19)]
    memory = Memory(engine)
    together = memory.estimate(largest, Checkpointed())
    alone = [memory.estimate(replace(size, others=()), Checkpointed())
             for size in (largest, *largest.others)]  # fmt: skip
    assert together.total == max(estimate.total for estimate in alone)
    assert memory._loss(largest) < memory._loss(replace(largest, member="chat", targets=19))


def test_a_large_step_far_along_a_plan_is_seen() -> None:
    """A task that comes in late may bring the longest texts."""
    engine = engine_for(tiny_model("llama"))
    short, long = (SimpleNamespace(batches=(collate(documents([n])),)) for n in (8, 80))
    plan = [short] * 150 + [long] * 50
    assert largest_micro_batch(plan, engine).tokens == 80
