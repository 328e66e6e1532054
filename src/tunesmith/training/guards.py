"""Guards: what must hold at each step, or the run stops and says why.

Also turns Ctrl-C into a request: the step under way is finished and checkpointed first.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from tunesmith.errors import RunError


def check_counts(step: int, counts: Mapping[str, float]) -> None:
    """Refuse a step in which a term of the loss has nothing to learn from.

    Raises:
        RunError: a count is 0: its loss would be 0 divided by 0, not 0.
    """
    for term, count in counts.items():
        if count <= 0:
            raise RunError(
                f"Nothing is learnt in step {step}: the loss term {term!r} counts 0 targets.",
                fix="Look at what is trained with `tunesmith check RECIPE --show 3`.",
            )


def check_finite(step: int, name: str, value: float) -> None:
    """Stop where the loss or the norm of the gradients is not a number.

    Args:
        name: which of the two it is.

    Raises:
        RunError: names it and the step.
    """
    if not math.isfinite(value):
        raise RunError(
            f"The {name} of step {step} is {value}: nothing can be learnt from it.",
            fix="Lower `training.learning_rate`, or lengthen `training.warmup`.",
        )


class Interrupted(KeyboardInterrupt):
    """The user asked to stop. `run` is the path of what can be resumed, once it is known."""

    def __init__(self, said: str, run: str | None = None) -> None:
        super().__init__(said)
        self.run = run


class StopRequest:
    """Whether the user has asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Take a first signal as a request; a second one interrupts at once."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """While inside, Ctrl-C (and SIGTERM) only sets a flag, once.

    In a thread other than the main one, signals cannot be caught and stay as they are.
    """
    request = StopRequest()
    try:
        before = {s: signal.signal(s, request.ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
