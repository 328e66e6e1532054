"""Old texts for retainers: read from files, or written by the model itself before training.

    options, task, engine ──old_texts──> Encoded …

What a model writes is a function of its weights and a seed; it is kept in the user's cache under a
digest of both, so that `check`, `train` and a resumed run do not wait for it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from tunesmith.console import Console
from tunesmith.data.batch import Encoded, EncodedStream
from tunesmith.data.dataset import load_dataset
from tunesmith.data.frame import around
from tunesmith.engine.engine import Engine
from tunesmith.engine.sampling import Sampling
from tunesmith.errors import DataError
from tunesmith.models.atomic import written_aside
from tunesmith.models.fingerprint import cache_root
from tunesmith.retain.base import OldTexts, Scene
from tunesmith.tasks.base import Task
from tunesmith.tasks.language_modeling import LanguageModeling

_FORM = 1
"""Of the files in the cache; another number where they are made in another way."""


def old_texts(
    options: OldTexts, task: Task, scene: Scene, fingerprint: str, console: Console
) -> list[Encoded]:
    """Return the old texts that a retainer asks for, as examples that can be learnt.

    Args:
        task: the recipe's, bound to the model.
        fingerprint: of the model's weights before training.

    Raises:
        DataError: a file cannot be read, or its records do not fit.
    """
    if not options.data:
        return write_texts(options, scene, fingerprint, console)
    reader = task
    if options.read_as == "text":
        reader = LanguageModeling()
        reader.bind(scene.engine.model)
    found = load_dataset(options.data, reader.Record)
    if not found.records:
        raise DataError("There are no old records.", where=options.data[0])
    return reader.encode_all(found.records, found.origins)


def write_texts(
    options: OldTexts, scene: Scene, fingerprint: str, console: Console
) -> list[Encoded]:
    """Let the model write texts from nothing but their beginning, and return them as examples."""
    about = {
        "form": _FORM,
        "model": fingerprint,
        "format": str(scene.engine.dtype),
        "texts": options.written,
        "length": options.length,
        "seed": scene.seed,
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_root() / "written" / digest
    if not folder.exists():
        rows = _written(options, scene, console)
        with written_aside(folder) as aside:
            (aside / "ids.json").write_text(json.dumps(rows))
            (aside / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    begun, ids = json.loads((folder / "ids.json").read_text())
    return [_example(row, begun) for row in ids]


def digest_of(examples: Sequence[Encoded]) -> str:
    """Return the SHA-256 of what examples are made of."""
    digest = hashlib.sha256()
    for example in examples:
        streams = {name: (s.ids, s.weights, s.classes) for name, s in example.streams.items()}
        digest.update(json.dumps([streams, example.label]).encode())
    return digest.hexdigest()


def _written(options: OldTexts, scene: Scene, console: Console) -> tuple[int, list[list[int]]]:
    """Return how many tokens every text begins with, and the ids of each."""
    engine, begin = scene.engine, _beginning(scene.engine)
    end = engine.model.tokenizer.eos_token_id
    room = min(options.length, engine.model.anatomy.context_length) - len(begin)
    sampling = Sampling(
        max_new_tokens=max(1, room - 1),
        stop_ids=() if end is None else (int(end),),
        temperature=1.0,
        seed=scene.seed,
    )
    adapter: Any = "on" if scene.begins_as_base else "off"
    count = options.written
    with console.progress("the model's own texts", count) as bar:
        made = engine.generate([begin] * count, sampling, adapter, ended=lambda: bar.advance())
    ends = [] if end is None else [int(end)]
    rows = [[*begin, *text.ids, *(ends if text.stopped else [])] for text in made]
    return len(begin), [row for row in rows if len(row) > len(begin)]


def _beginning(engine: Engine) -> list[int]:
    """The tokens before every text; where there are none, one on which texts begin or end."""
    tokenizer = engine.model.tokenizer
    before, _ = around(tokenizer)
    if before:
        return before
    for found in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if found is not None:
            return [int(found)]
    return [0]


def _example(ids: Sequence[int], begun: int) -> Encoded:
    weights = (0.0,) * begun + (1.0,) * (len(ids) - begun)
    return Encoded({"text": EncodedStream(tuple(ids), weights)})
