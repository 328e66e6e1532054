"""One vector of each text, by an encoder that stays as it is.

    texts ──frozen encoder, pooled as it was made──> vectors_ND of length 1

What quality is judged by: which texts are alike, and what a linear map of them says. The encoder is
loaded for this alone, and let go afterwards. Shapes: N texts, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.console import Console
from tunesmith.recipes.load import parse_recipe
from tunesmith.runs.build import build_engine
from tunesmith.runs.members import make_task, make_technique

ENCODER = "minilm-l6"
"""The encoder that is taken where none is named: small, and in the catalogue."""
_TOKENS = 256
"""What is read of a text: the topic of a longer one is known by then."""
_AT_ONCE = 512


def vectors_of(
    texts: Sequence[str], encoder: str, console: Console, title: str = "read"
) -> NDArray[np.float64]:
    """Return the vector of each text, `[N, D]`.

    Args:
        encoder: a name, a folder or a hub id of a text model.
        title: of the progress bar.

    Raises:
        ModelError: there is no such model, or it reads no text.
    """
    recipe = parse_recipe(
        {
            "model": encoder,
            "task": {"name": "embedding", "max_length": _TOKENS},
            "technique": "full",
            "data": {"train": "."},
        }
    )
    task: Any = make_task(recipe)
    engine = build_engine(recipe, task, make_technique(recipe, task), console)
    readable = [text if _has_tokens(engine.model.tokenizer, text) else "." for text in texts]
    rows: list[tuple[float, ...]] = []
    with console.progress(title, len(readable)) as bar:
        for start in range(0, len(readable), _AT_ONCE):
            some = readable[start : start + _AT_ONCE]
            rows += [prediction.vector for prediction in task.predict(engine, some)]
            bar.advance(len(some))
    return np.array(rows)


def _has_tokens(tokenizer: Any, text: str) -> bool:
    start = text[:_TOKENS]
    return bool(tokenizer(start, add_special_tokens=False, verbose=False)["input_ids"])
