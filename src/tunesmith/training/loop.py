"""The training loop: order, schedule, checkpoints, guards and early stopping over the verbs.

    for each step of the plan: forward_backward each micro-batch, optimizer_step, write an event

It is given an engine, an objective and a plan; it knows no task, recipe or file format. Validation
is a function that returns figures; which of them decides, and in which direction, is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from tunesmith.console import Bar, Console
from tunesmith.data.plan import Plan, Step
from tunesmith.data.streamed_plan import StreamedPlan
from tunesmith.engine.engine import Engine
from tunesmith.errors import RunError, is_shortage
from tunesmith.models.seeded import seeded
from tunesmith.objectives.base import Objective
from tunesmith.techniques.base import Pace
from tunesmith.training.checkpoints import Checkpoints, Progress
from tunesmith.training.events import Events
from tunesmith.training.feed import Feed
from tunesmith.training.guards import (
    Interrupted,
    StopRequest,
    check_counts,
    check_finite,
    stop_on_signal,
)
from tunesmith.training.memory import resident_bytes
from tunesmith.training.schedule import Shape, learning_rate
from tunesmith.training.shortage import make_room
from tunesmith.training.utilisation import Meter

OF_PACE = "technique/"
"""What the names of a technique's own tensors begin with in a checkpoint."""

_UNMOVED_STEPS = 3


class Schedule(Protocol):
    """What the loop reads of the recipe's training options."""

    learning_rate: float
    schedule: Shape
    warmup: float
    seed: int
    validate_every: int | None
    patience: int | None
    keep_best: bool
    checkpoint_every: int | None


@dataclass(frozen=True)
class Validation:
    """How a run is judged on the way.

    Attributes:
        measure: returns figures of the weights as they are now, by name.
        decides: the name of the figure that early stopping and the best checkpoint follow.
        higher_is_better: its direction.
    """

    measure: Callable[[], Mapping[str, float]]
    decides: str
    higher_is_better: bool


class Loop:
    """One run of training, from wherever `progress` says to the end of the plan.

    Args:
        best: the best weights so far, of a resumed run.
        meter: counts the FLOPs of steps; None where they cannot be counted.
        pace: what changes as the steps go by.
        before_update: called with the number of each step when its gradients are complete; what it
            returns is added to the loss, as terms.
        after_shortage: called with what is said where memory ran out and more is computed twice.
    """

    def __init__(
        self,
        engine: Engine,
        objective: Objective,
        plan: Plan | StreamedPlan,
        options: Schedule,
        checkpoints: Checkpoints,
        events: Events,
        console: Console,
        *,
        validation: Validation | None = None,
        progress: Progress | None = None,
        best: dict[str, Tensor] | None = None,
        meter: Meter | None = None,
        pace: Pace | None = None,
        before_update: Callable[[int], Mapping[str, float]] = lambda step: {},
        after_shortage: Callable[[str], None] = lambda said: None,
    ) -> None:
        self.engine = engine
        self.objective = objective
        self.plan = plan
        self.options = options
        self.checkpoints = checkpoints
        self.events = events
        self.console = console
        self.validation = validation
        self.progress = progress or Progress(initial_digest=engine.digest())
        self._before = replace(self.progress)
        self.best = best or {}
        self.meter = meter
        self.pace = pace or Pace()
        self._before_update = before_update
        self._after_shortage = after_shortage

    def run(self) -> Progress:
        """Train to the end of the plan, or until validation no longer improves.

        Raises:
            RunError: the loss or a gradient is not finite, or nothing moved.
            Interrupted: the user asked to stop; a checkpoint was written.
        """
        shown = self.console.progress("train", len(self.plan), done=self.progress.step)
        with stop_on_signal() as request, shown as bar, Feed(self.plan) as feed:
            while self.progress.step < len(self.plan) and not self.progress.stopped_early:
                self._step(bar, feed)
                self._validate_when_due()
                self._checkpoint_when_due(request)
        if self.options.keep_best and self.best:
            self._restore_best()
        return self.progress

    def _step(self, bar: Bar, feed: Feed) -> None:
        number = self.progress.step
        began = time.perf_counter()
        step, waited = feed.take(number)
        check_counts(number + 1, step.counts)
        rate = learning_rate(
            number,
            steps=len(self.plan),
            peak=self.options.learning_rate,
            shape=self.options.schedule,
            warmup=self.options.warmup,
        )
        self.pace.before_step(number)
        self.engine.begin_step(rate)
        terms = self._learn(step, number)
        terms |= {**self._before_update(number), **self.pace.before_update(number)}
        loss = sum(terms.values())
        check_finite(number + 1, "loss", loss)  # while the weights are still what they were
        norm = self.engine.optimizer_step(rate)
        self.pace.after_update(number)
        seconds = time.perf_counter() - began
        check_finite(number + 1, "gradient norm", norm)
        self._count(step, seconds, waited)
        self._check_moved()
        self.events.write(
            step=number + 1,
            epoch=self.plan.epoch(number + 1),
            loss=loss,
            terms=terms,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=step.tokens,
            trained_tokens=_trained(step),
            examples=sum(len(batch) for batch in step),
            seconds=seconds,
            waited=waited,
            tokens_per_second=step.tokens / seconds,
            **self._utilisation(step, seconds),
            memory_bytes=resident_bytes(),
        )
        bar.advance(1, f"{self._speed()}  loss {loss:.3f}")

    def _utilisation(self, step: Step, seconds: float) -> dict[str, float]:
        """Count the FLOPs of a step, and hold them against what the machine can do."""
        if self.meter is None:
            return {}
        flops, possible = self.meter.flops(step), self.meter.possible(seconds)
        self.progress.flops += flops
        self.progress.possible_flops += possible
        return {"flops": flops, "mfu": flops / possible}

    def _speed(self) -> str:
        """How fast this process is: steps before a resume may have been another machine's."""
        here = self.progress.since(self._before)
        speed = f"{here.tokens / here.seconds:.0f} tokens/s"
        return speed if here.mfu is None else f"{speed}  MFU {here.mfu:.1%}"

    def _learn(self, step: Step, number: int) -> dict[str, float]:
        """Add up the gradients of a step; where memory runs out, again with less held at once."""
        while True:
            try:
                return self._add_up(step, number)
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error):
                    raise
            said = make_room(self.engine, number + 1, self.objective)
            self.console.warn(said)
            self._after_shortage(said)

    def _add_up(self, step: Step, number: int) -> dict[str, float]:
        terms = dict.fromkeys(step.counts, 0.0)
        for place, batch in enumerate(step):
            with seeded(_mix(self.options.seed, number, place)):
                shares, _ = self.engine.forward_backward(batch, self.objective, step.counts)
            for name, share in shares.items():
                terms[name] += share
        return terms

    def _count(self, step: Step, seconds: float, waited: float) -> None:
        self.progress.step += 1
        self.progress.tokens += step.tokens
        self.progress.trained_tokens += _trained(step)
        self.progress.examples += sum(len(batch) for batch in step)
        self.progress.position = step.after
        self.progress.seconds += seconds
        self.progress.waited += waited

    def _check_moved(self) -> None:
        if self.progress.step != min(_UNMOVED_STEPS, len(self.plan)):
            return
        if self.engine.digest() == self.progress.initial_digest:
            raise RunError(
                f"After {self.progress.step} steps no parameter has moved.",
                fix="Raise `training.learning_rate`; see what learns with `tunesmith check`.",
            )

    def _validate_when_due(self) -> None:
        every, last = self.options.validate_every, self.progress.step == len(self.plan)
        if self.validation is None or not (last or (every and self.progress.step % every == 0)):
            return
        figures = dict(self.validation.measure())
        self.events.write(step=self.progress.step, validation=figures)
        value = figures[self.validation.decides]
        sign = 1 if self.validation.higher_is_better else -1
        if self.progress.best is None or sign * value > sign * self.progress.best:
            self.progress.best, self.progress.best_step = value, self.progress.step
            self.progress.bad = 0
            if self.options.keep_best:
                self.best = {name: t.clone() for name, t in _weights(self.engine).items()}
        else:
            self.progress.bad += 1
            patience = self.options.patience
            self.progress.stopped_early = patience is not None and self.progress.bad >= patience

    def _checkpoint_when_due(self, request: StopRequest) -> None:
        every, step = self.options.checkpoint_every, self.progress.step
        ended = step == len(self.plan) or self.progress.stopped_early
        if ended or request.asked or (every and step % every == 0):
            state = self.engine.state_dict()
            state |= {f"{OF_PACE}{name}": t for name, t in self.pace.tensors().items()}
            self.checkpoints.save(self.progress, state, self.best)
        if request.asked and not ended:
            raise Interrupted(f"stopped after step {step} of {len(self.plan)}")

    def _restore_best(self) -> None:
        state = self.engine.state_dict()
        self.engine.load_state_dict(state | self.best)


def _weights(engine: Engine) -> dict[str, Tensor]:
    return {n: t for n, t in engine.state_dict().items() if n.startswith("weights/")}


def _trained(step: Step) -> int:
    return sum(
        int((stream.weights_T != 0).sum())
        for batch in step
        for stream in batch.streams.values()
        if stream.weights_T is not None
    )


def _mix(seed: int, step: int, place: int) -> int:
    """A seed for one micro-batch: the same whenever that micro-batch is computed."""
    return (seed * 1_000_003 + step) * 1_009 + place
