"""Stops runs in the middle, so that what goes on can be compared with what was never stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tunesmith import api
from tunesmith.console import Console
from tunesmith.training.events import Events


class KilledError(Exception):
    """The process is gone."""


@contextmanager
def stopping_at(
    step: int, by: BaseException | type[BaseException] = KeyboardInterrupt
) -> Iterator[None]:
    """Within, a run that comes to this step ends by `by`, the step computed but not written down.

    Steps count from 1, and go on counting in a run that is resumed.
    """
    write = Events.write

    def stop_or_write(self: Events, **event: Any) -> None:
        if event["step"] == step:
            raise by
        write(self, **event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Events, "write", stop_or_write)
        yield


def train_and_kill(recipe: Mapping[str, Any], at: int) -> None:
    """Train as a run called `killed`, whose process ends in the middle of this step."""
    with stopping_at(at, KilledError), pytest.raises(KilledError):
        api.train(recipe, name="killed", console=Console(quiet=True))


def state(run: Path) -> dict[str, bytes]:
    """What learnt and the optimiser's moments, after the last step."""
    latest = run / "checkpoints" / (run / "checkpoints/latest").read_text().strip()
    tensors = load_file(latest / "state.safetensors")
    return {
        n: t.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for n, t in tensors.items()
    }
