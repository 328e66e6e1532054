"""What a head says of many examples, in the order in which they were given.

It knows no task: what the numbers mean is the caller's.

Shapes: N examples, C outputs of the head, L tokens of one example.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.console import Console
from tunesmith.data.batch import Encoded
from tunesmith.engine.batching import batches
from tunesmith.engine.engine import Engine
from tunesmith.objectives.base import PerToken, Pooled


def document_outputs(
    engine: Engine, examples: Sequence[Encoded], *, tokens_per_batch: int, console: Console
) -> NDArray[np.float64]:
    """Return what the head says of each example, `outputs_NC`."""
    rows: dict[int, NDArray[np.float64]] = {}
    with console.progress("measure", len(examples)) as bar:
        for batch in batches(examples, tokens_per_batch, packed=engine.packed):
            outputs_BC = engine.forward(batch, Pooled).outputs_BC.cpu().double().numpy()
            rows |= dict(zip(batch.indices, outputs_BC, strict=True))
            bar.advance(len(batch))
    if not rows:
        return np.empty((0, 1))
    return np.stack([rows[place] for place in range(len(examples))])


def token_outputs(
    engine: Engine, examples: Sequence[Encoded], *, tokens_per_batch: int, console: Console
) -> list[NDArray[np.float64]]:
    """Return what the head says of each token of each example, `outputs_LC`."""
    found: dict[int, NDArray[np.float64]] = {}
    with console.progress("measure", len(examples)) as bar:
        for batch in batches(examples, tokens_per_batch, packed=engine.packed):
            outputs_TC = engine.forward(batch, PerToken).outputs_TC.cpu().double()
            documents = torch.split(outputs_TC, batch.text.lengths)
            found |= {
                place: outputs_LC.numpy()
                for place, outputs_LC in zip(batch.indices, documents, strict=True)
            }
            bar.advance(len(batch))
    return [found[place] for place in range(len(examples))]
