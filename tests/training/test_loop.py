"""What stops the loop before harm is done, and what it goes on from as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.tiny import LAYERS, tiny_model

from tunesmith.console import Console
from tunesmith.data.batch import Batch, Encoded, EncodedStream
from tunesmith.data.plan import Plan
from tunesmith.engine.checkpointing import Checkpointed
from tunesmith.engine.engine import Engine
from tunesmith.engine.optimizer import AdamWOptions
from tunesmith.errors import RunError
from tunesmith.objectives.base import ByMember, Objective, Term
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.techniques.base import ParameterGroup
from tunesmith.training.checkpoints import Checkpoints
from tunesmith.training.events import Events, read_events
from tunesmith.training.loop import Loop

LEAN = AdamWOptions(in_backward=True, clip_per_tensor=True)


def examples(learnt: float = 1.0) -> list[Encoded]:
    rows = [tuple(range(10 + i, 16 + 2 * i)) for i in range(12)]
    return [Encoded({"text": EncodedStream(ids, (learnt,) * len(ids))}) for ids in rows]


def engine(dropout: float = 0.0, optimizer: AdamWOptions | None = None) -> Engine:
    model = tiny_model("llama", dropout=dropout)
    parameters = {n: p.requires_grad_() for n, p in model.module.named_parameters()}
    return Engine(model, [ParameterGroup(parameters)], optimizer)


@pytest.fixture
def loop(tmp_path) -> Callable[..., Loop]:
    """Make a loop of three steps, each of several micro-batches."""

    def make(
        engine: Engine,
        objective: Objective | None = None,
        learnt: float = 1.0,
        rate: float = 1e-2,
        tokens: int = 30,
    ) -> Loop:
        objective = objective or TokenLikelihood()
        options: Any = SimpleNamespace(
            learning_rate=rate, schedule="constant", warmup=0.0, seed=0, validate_every=None,
            patience=None, keep_best=False, checkpoint_every=None,
        )  # fmt: skip
        plan = Plan(
            examples(learnt), objective.counts, batch_size=4, tokens_per_batch=tokens, max_steps=3,
            epochs=None,
        )  # fmt: skip
        checkpoints = Checkpoints(tmp_path / "checkpoints", 1)
        events = Events(tmp_path / "events.jsonl")
        return Loop(engine, objective, plan, options, checkpoints, events, Console(quiet=True))

    return make


class Spoilt(TokenLikelihood):
    """A likelihood that a test spoils from the second step on."""

    def __init__(self, spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.spoil, self.passes = spoil, 0

    def loss(self, readout: Any, batch: Batch) -> dict[str, Term]:
        self.passes += 1
        term = super().loss(readout, batch)["nll"]
        return {"nll": Term(self.spoil(term.total) if self.passes > 1 else term.total, term.count)}


def test_a_step_in_which_nothing_is_learnt_is_an_error_and_no_loss_of_zero(loop) -> None:
    made = loop(engine(), learnt=0.0)
    with pytest.raises(RunError, match=r"in step 1: the loss term 'nll' counts 0 targets"):
        made.run()
    assert read_events(made.events.path) == []


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_no_number_stops_before_the_weights_move(loop, value) -> None:
    """Its gradient may well be finite: that of a constant is."""
    made = loop(engine(), Spoilt(lambda total: total + value), tokens=1000)
    made.options.checkpoint_every = 1
    with pytest.raises(RunError, match=r"The loss of step 2 is (nan|inf)") as stopped:
        made.run()
    assert "training.learning_rate" in (stopped.value.fix or "")
    saved = made.checkpoints.latest()
    assert saved is not None
    assert saved.progress.step == len(read_events(made.events.path)) == 1
    moved = {n: p for n, p in made.engine.state_dict().items() if n.startswith("weights/")}
    assert all(torch.equal(saved.state[name], weight) for name, weight in moved.items())


def test_a_gradient_that_is_no_number_stops_before_the_weights_move(loop) -> None:
    def spoil(total: torch.Tensor) -> torch.Tensor:
        return total + (total - total.detach()).sqrt()  # 0, with a slope without end

    made = loop(engine(), Spoilt(spoil), tokens=1000)
    made.options.checkpoint_every = 1
    with pytest.raises(RunError, match=r"The gradient norm of step 2 is (nan|inf)"):
        made.run()
    saved = made.checkpoints.latest()
    assert saved is not None
    state = made.engine.state_dict()
    assert all(torch.equal(saved.state[n], t) for n, t in state.items() if n.startswith("weights/"))


def test_a_run_whose_weights_do_not_move_stops_after_three_steps(loop) -> None:
    made = loop(engine(), rate=0.0)
    with pytest.raises(RunError, match=r"After 3 steps no parameter has moved") as stopped:
        made.run()
    assert "training.learning_rate" in (stopped.value.fix or "")


class Short:
    """An engine's `forward_backward` that finds too little memory in some of its passes."""

    def __init__(self, engine: Engine, passes: set[int], error: Exception) -> None:
        self.stock, self.passes, self.error, self.done = (
            engine.forward_backward, passes, error, 0,
        )  # fmt: skip
        engine.forward_backward = self  # type: ignore[method-assign,assignment]

    def __call__(self, *arguments: Any) -> Any:
        self.done += 1
        found = self.stock(*arguments)  # the gradients of the pass are there, as far as it came
        if self.done in self.passes:
            raise self.error
        return found


SHORTAGES = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
)


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: type(error).__name__)
def test_a_step_that_ran_out_of_memory_is_taken_again_and_ends_in_the_same_bits(
    loop, error, monkeypatch
) -> None:
    whole = engine(dropout=0.2)
    loop(whole).run()
    said: list[str] = []
    monkeypatch.setattr(Console, "warn", lambda self, text: said.append(text))
    short = engine(dropout=0.2)
    assert Short(short, {3}, error)  # the second micro-batch of the first step, or of the second
    assert loop(short).run().step == 3
    assert short.digest() == whole.digest()
    assert short.checkpoints.chosen == Checkpointed(LAYERS // 2)
    [sentence] = said
    assert f"from now on {LAYERS // 2} of {LAYERS} layers are computed twice" in sentence


def test_tries_are_few_and_then_it_says_what_to_do(loop) -> None:
    tight = engine()
    short = Short(tight, set(range(100)), SHORTAGES[0])
    with pytest.raises(RunError, match=r"Memory ran out in step 1, and nothing is left") as stopped:
        loop(tight).run()
    assert "training.tokens_per_batch" in (stopped.value.fix or "")
    assert short.done == 3
    assert tight.checkpoints.chosen == Checkpointed(LAYERS)


def test_what_has_moved_within_the_pass_is_not_moved_twice(loop) -> None:
    lean = engine(optimizer=LEAN)
    short = Short(lean, {1}, SHORTAGES[0])
    with pytest.raises(RunError, match=r"Memory ran out in step 1.* have moved in it") as stopped:
        loop(lean, tokens=1000).run()
    assert short.done == 1
    assert "computed twice" not in stopped.value.what
    assert "training.batch_size" in (stopped.value.fix or "")
    assert "tokens_per_batch" not in (stopped.value.fix or "")


class Comparing(TokenLikelihood):
    """A likelihood that would have all records of a step in one pass."""

    whole_step = True


def test_where_a_step_must_stay_one_pass_no_smaller_passes_are_advised(loop) -> None:
    """The budget of tokens could not be lowered: such a recipe is refused."""
    tight = engine()
    Short(tight, set(range(100)), SHORTAGES[0])
    with pytest.raises(RunError, match="could be computed twice") as stopped:
        loop(tight, Comparing(), tokens=1000).run()
    assert "training.batch_size" in (stopped.value.fix or "")
    assert "tokens_per_batch" not in (stopped.value.fix or "")


def test_several_tasks_compare_records_where_one_of_them_does() -> None:
    assert ByMember({"one": TokenLikelihood(), "other": Comparing()}).compares_records
    assert not ByMember({"one": TokenLikelihood()}).compares_records


def test_another_error_of_a_pass_is_not_taken_for_a_shortage(loop) -> None:
    broken = engine()
    short = Short(broken, {1}, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        loop(broken).run()
    assert short.done == 1
