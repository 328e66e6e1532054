"""Old texts for retainers: read from files, or written by the model itself before training.

    options, task, engine ──old_texts──> Encoded …

What a model writes is a function of its weights and their format, of a seed, and of what computes
it; it is kept in the user's cache under a digest of all of these, so that `check`, `train` and a
resumed run do not wait for it again. Of two processes that want the same texts one writes them. A
run keeps what it began with, and goes on with that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tunesmith.console import Console
from tunesmith.data.batch import Encoded, EncodedStream
from tunesmith.data.dataset import load_dataset
from tunesmith.data.frame import around
from tunesmith.engine.engine import Engine
from tunesmith.engine.sampling import Sampling
from tunesmith.errors import DataError
from tunesmith.models.atomic import locked, written_aside
from tunesmith.models.fingerprint import cache_root
from tunesmith.retain.base import OldTexts, Scene
from tunesmith.runs.frozen_name import config_of, name_of
from tunesmith.runs.hardware import versions
from tunesmith.runs.roofline import identity
from tunesmith.tasks.base import Task
from tunesmith.tasks.language_modeling import LanguageModeling

_FORM = 3
"""Of the files in the cache; another number where they are made in another way."""

_VERSIONS = ("tunesmith", "torch", "transformers")


def old_texts(
    options: OldTexts,
    task: Task,
    scene: Scene,
    fingerprint: str,
    console: Console,
    written: Path | None = None,
) -> list[Encoded]:
    """Return the old texts that a retainer asks for, as examples that can be learnt.

    Args:
        task: the recipe's, bound to the model.
        fingerprint: of the model's weights before training.
        written: the file of those that the model wrote when the run began.

    Raises:
        DataError: a file cannot be read, or its records do not fit.
    """
    if not options.data and written is not None and written.exists():
        begun, ids = json.loads(written.read_text())
        return [_example(row, begun) for row in ids]
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
    begin, sampling = _beginning(scene.engine), _sampling(options, scene)
    about = _depends_on(options, scene, fingerprint, begin, sampling)
    folder = cache_root() / "written" / name_of(about)
    with locked(folder):
        rows = _kept(folder)
        if rows is None:
            rows = _written(options.written, scene, begin, sampling, console)
            with written_aside(folder) as aside:
                (aside / "ids.json").write_text(json.dumps(rows))
                (aside / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    return [_example(row, len(begin)) for row in rows]


def keep_texts(examples: Sequence[Encoded], file: Path) -> None:
    """Write texts of a model to a file from which `old_texts` reads them."""
    rows = [example.streams["text"] for example in examples]
    begun = rows[0].learnt().index(True) if rows else 0
    file.write_text(json.dumps([begun, [list(row.ids) for row in rows]]))


def digest_of(examples: Sequence[Encoded]) -> str:
    """Return the SHA-256 of what examples are made of."""
    digest = hashlib.sha256()
    for example in examples:
        streams = {name: (s.ids, s.weights, s.classes) for name, s in example.streams.items()}
        digest.update(json.dumps([streams, example.label]).encode())
    return digest.hexdigest()


def _depends_on(
    options: OldTexts, scene: Scene, fingerprint: str, begin: Sequence[int], sampling: Sampling
) -> dict[str, Any]:
    """All that decides which tokens are drawn, as JSON data.

    What learns is left out: the model is asked as it is before the first step.
    """
    engine = scene.engine
    stored, made_with = engine.model.quantised, versions()
    return {
        "form": _FORM,
        "model": fingerprint,
        "config": config_of(engine),
        "stored": None if stored is None else asdict(stored),
        "dtype": str(engine.dtype).removeprefix("torch."),
        "kernels": dict(engine.kernels),
        "packed": engine.packed,
        "generation": engine.generation(),
        "machine": identity(torch.device(engine.device.type)),
        "versions": {name: made_with[name] for name in _VERSIONS},
        "texts": options.written,
        "begin": list(begin),
        "sampling": asdict(sampling),
    }


def _kept(folder: Path) -> list[list[int]] | None:
    """The texts that lie there; None where none do, or they cannot be read."""
    try:
        rows: list[list[int]] = json.loads((folder / "ids.json").read_text())
    except (OSError, ValueError):
        return None
    return rows


def _sampling(options: OldTexts, scene: Scene) -> Sampling:
    model = scene.engine.model
    end = model.tokenizer.eos_token_id
    room = min(options.length, model.anatomy.context_length) - len(_beginning(scene.engine))
    return Sampling(
        max_new_tokens=max(1, room - 1),
        stop_ids=() if end is None else (int(end),),
        temperature=1.0,
        seed=scene.seed,
    )


def _written(
    count: int, scene: Scene, begin: list[int], sampling: Sampling, console: Console
) -> list[list[int]]:
    """Let the model write; return the ids of each text, its beginning among them."""
    adapter: Any = "on" if scene.begins_as_base else "off"
    with console.progress("the model's own texts", count) as bar:
        made = scene.engine.generate(
            [begin] * count, sampling, adapter, ended=lambda: bar.advance()
        )
    rows = [[*begin, *text.ids, *(sampling.stop_ids if text.stopped else ())] for text in made]
    return [row for row in rows if len(row) > len(begin)]


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
