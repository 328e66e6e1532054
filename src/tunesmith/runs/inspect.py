"""`inspect`: what a model is made of, and whether it is right for a task. Writes nothing.

    name ──description_files──> configuration ──blueprint──> modules without data ──> Inspection

The weights may be absent: everything is read from the configuration and the tokenizer. Of a recipe,
the model is shown as the recipe's surgery leaves it, beside what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tunesmith.console import Console
from tunesmith.errors import InputError, ModelError
from tunesmith.models.anatomy.blueprint import blueprint
from tunesmith.models.anatomy.description import Description, describe
from tunesmith.models.kinds import kind_of
from tunesmith.models.load import has_tokenizer, load_tokenizer, read_config
from tunesmith.models.quantised import extra_of, stored_as
from tunesmith.models.resolve import Resolved, description_files
from tunesmith.models.tokens import Hazard, TokenizerFacts, hazards, tokenizer_facts
from tunesmith.runs.fit import Candidate, Fit, judge


@dataclass(frozen=True)
class Inspection:
    """What a model is.

    Attributes:
        model: the name that was given.
        path: the folder of its configuration.
        weights: whether its weights are on this machine.
        description: None where transformers knows no such model (only with a task).
        tokenizer: None where there is none.
        fit: whether it is right for the task, where one was named.
    """

    model: str
    path: str
    weights: bool
    description: Description | None
    tokenizer: TokenizerFacts | None
    hazards: tuple[Hazard, ...]
    fit: Fit | None


def inspect(
    model: str | Path,
    *,
    task: str | None = None,
    data: str | Path | Sequence[str] = (),
    console: Console | None = None,
) -> Inspection:
    """Look at a model; judge it for a task where one is named.

    Args:
        model: a folder (a `config.json` in it is enough), a name of the catalogue, a hub id or a
            .gguf file.
        task: judge it for this task.
        data: and for these records.

    Raises:
        ModelError: there is no such model, or transformers does not know it.
        RecipeError: there is no such task.
        InputError: data were given without a task.
    """
    specs = [str(data)] if isinstance(data, str | Path) else [str(spec) for spec in data]
    if specs and task is None:
        raise InputError(
            "Data are judged for a task, and none is named.",
            where="--data",
            fix="Name it, such as --task classification.",
        )
    for spec in specs:
        if not spec.startswith("hub:") and not Path(spec).exists():
            raise InputError("There is no such file.", where=spec, fix="Check the path.")
    name = str(model)
    folder, found = description_files(name, console or Console(quiet=True))
    source = found or Resolved(name, folder, "folder", "")
    config = read_config(source)
    module = _module(folder, name, needed=task is None)
    description = None if module is None else describe(module)
    tokenizer = _tokenizer(source)
    facts: TokenizerFacts | None = None
    risks: tuple[Hazard, ...] = ()
    if tokenizer is not None:
        rows = description.vocab_size if description else None
        context = description.context_length if description else None
        facts = tokenizer_facts(tokenizer, rows)
        risks = hazards(tokenizer, facts, config, kind_of(config), context)
    fit = None
    if task is not None:
        candidate = Candidate(name, folder, config, module, tokenizer, risks)
        fit = judge(candidate, task, data=specs)
    risks = (*risks, *_stored(config))
    return Inspection(name, str(folder), found is not None, description, facts, risks, fit)


def _stored(config: dict[str, Any]) -> tuple[Hazard, ...]:
    """What to know of weights that are stored quantised."""
    method = stored_as(config)
    if method is None:
        return ()
    what = f"Its weights are stored quantised ({method}); sizes above are those of plain ones."
    extra = extra_of(method)
    if extra is None:
        fix = "Nothing here reads them: choose the original model with `base: {quantize: nf4}`."
        return (Hazard("broken", "stored_quantised", what, fix),)
    fix = (
        "Adapters (lora and its kin) can learn beside them, weights of its own cannot; to read"
        f' them: pip install "tunesmith[{extra}]".'
    )
    return (Hazard("note", "stored_quantised", what, fix),)


def _module(folder: Path, name: str, *, needed: bool) -> nn.Module | None:
    try:
        return blueprint(folder, name)
    except ModelError:
        if needed:
            raise
        return None


def _tokenizer(source: Resolved) -> Any:
    """Return the tokenizer; None where the folder has no such files at all."""
    return load_tokenizer(source) if has_tokenizer(source.path) else None
