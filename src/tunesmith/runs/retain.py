"""What is kept against forgetting, in a run: the recipe's retainers, and when their turn comes.

    prepare ── make ──> Retention     old examples in the plan, terms beside the loss
    before the first step ── examine    what mattered for old texts, kept in retain/
    each step ── before_update          penalties on the weights

A point between before and after is looked for by `interpolation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from tunesmith.console import Console
from tunesmith.data.batch import Encoded
from tunesmith.data.splits import WORTHLESS_OVERLAP
from tunesmith.engine.engine import Engine
from tunesmith.errors import DataError, RecipeError
from tunesmith.models.atomic import written_aside
from tunesmith.objectives.base import Objective
from tunesmith.recipes.schema import Recipe
from tunesmith.registry import RETAINERS
from tunesmith.retain.base import OldTexts, Retainer, Scene
from tunesmith.retain.replay import Replay
from tunesmith.runs.encoding import Part
from tunesmith.runs.old_texts import digest_of, keep_texts, old_texts
from tunesmith.stored import Stored
from tunesmith.tasks.base import Task
from tunesmith.techniques.base import Technique

if TYPE_CHECKING:
    from tunesmith.runs.folder import RunFolder


@dataclass
class Retention:
    """The retainers of a run, and what they brought.

    Attributes:
        replayed: old examples that are mixed in among the training examples.
        old: old texts by which a retainer finds out what matters, by its name.
        written: old texts that the model wrote itself, by the name of the retainer.
    """

    scene: Scene | None = None
    members: tuple[Retainer, ...] = ()
    replayed: list[Encoded] = field(default_factory=list)
    old: dict[str, list[Encoded]] = field(default_factory=dict)
    written: dict[str, list[Encoded]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that are held beside what training itself needs."""
        return sum(member.nbytes for member in self.members)

    def fingerprints(self) -> dict[str, str]:
        """Return the digest of each set of old texts, by name."""
        sets = self.old | ({"replayed": self.replayed} if self.replayed else {})
        return {f"old texts ({name})": digest_of(examples) for name, examples in sets.items()}

    def before_update(self, step: int) -> Mapping[str, float]:
        """Add the penalties' gradients; return what they add to the loss."""
        found: dict[str, float] = {}
        for member in self.members:
            found |= member.penalise()
        return found

    def facts(self) -> dict[str, str]:
        """Return what the report says of the retainers, by heading."""
        found: dict[str, str] = {}
        for member in self.members:
            found |= member.facts()
        return found


def make_retention(
    recipe: Recipe,
    task: Task,
    technique: Technique,
    objective: Objective,
    engine: Engine,
    new: int,
    console: Console,
    written: Path | None = None,
) -> Retention:
    """Make the recipe's retainers, and let them hold on to the model as it is.

    Args:
        engine: with the weights before the first step.
        new: how many training examples there are.
        written: the folder of the texts that the model wrote when the run began.

    Raises:
        RecipeError: a retainer does not suit this model, task or technique; says why.
        DataError: old records cannot be read.
    """
    if not recipe.retain:
        return Retention()
    training = recipe.training
    scene = Scene(
        engine,
        objective,
        begins_as_base=technique.begins_as_base,
        in_backward=training.optimizer_in_backward,
        tokens=training.tokens_per_batch,
        seed=training.seed,
    )
    _check_names([choice.name for choice in recipe.retain], technique)
    members: list[Retainer] = [
        RETAINERS.get(choice.name)(choice.options) for choice in recipe.retain
    ]
    made = Retention(scene, tuple(members))
    fingerprint = scene.engine.model.source.fingerprint
    for member in members:
        reason = member.refuses(scene)
        if reason:
            raise RecipeError(
                f"The retainer {member.name!r} cannot serve here: {reason}.", where="retain"
            )
        member.begin(scene)
        if not isinstance(member.options, OldTexts):
            continue
        file = None if written is None else written / f"{member.name}.json"
        found = old_texts(member.options, task, scene, fingerprint, console, file)
        if not member.options.data:
            made.written[member.name] = found
        if isinstance(member, Replay):
            made.replayed = member.choose(new, found, scene.seed)
        else:
            made.old[member.name] = found
    terms = [member.further() for member in members]
    objective.further += tuple(term for term in terms if term is not None)
    return made


def _check_names(names: Sequence[str], technique: Technique) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise RecipeError(f"The retainer {twice[0]!r} is listed twice.", where="retain")
    if names and technique.solver:
        raise RecipeError(
            f"With the technique {technique.name!r} the model itself stays as it is, so nothing is"
            " forgotten that could be retained.",
            where="retain",
            fix="Leave it out.",
        )


def check_replayed(replayed: Sequence[Encoded], held: Mapping[str, Part | None]) -> list[str]:
    """Compare what is replayed with what is held out; return a warning for each part it touches.

    Raises:
        DataError: so much of a part is replayed that a verdict on it would say nothing.
    """
    taught = {_tokens(example) for example in replayed}
    warnings = []
    for name, part in held.items():
        if part is None or not taught:
            continue
        both = sum(_tokens(example) in taught for example in part.examples)
        if both >= WORTHLESS_OVERLAP * len(part.examples):
            raise DataError(
                f"{both} of {len(part.examples)} examples of the {name} set are replayed in"
                " training: a verdict on it would say nothing.",
                where="retain.replay.data",
                fix=f"Leave the records of data.{name} out of these files.",
            )
        if both:
            warnings.append(
                f"{both} of {len(part.examples)} {name} examples are also replayed in training."
            )
    return warnings


def _tokens(example: Encoded) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(stream.ids)) for name, stream in example.streams.items())


def keep_written(folder: RunFolder, retention: Retention) -> None:
    """Keep in the run what the model wrote, so that nothing else is needed to go on."""
    if not retention.written:
        return
    with written_aside(folder.written) as aside:
        for name, examples in retention.written.items():
            keep_texts(examples, aside / f"{name}.json")


def examine(folder: RunFolder, retention: Retention, console: Console) -> None:
    """Let the retainers find out what matters for old texts, or read what they found before."""
    for member in retention.members:
        old = retention.old.get(member.name)
        if old is None:
            continue
        kept = folder.retain / member.name
        if not kept.exists():
            assert retention.scene is not None
            console.note(f"{member.name}: {len(old)} old texts are looked at.")
            found = member.examine(retention.scene, old)
            with written_aside(kept) as aside:
                save_file({n: t.cpu().contiguous() for n, t in found.items()}, aside / "found.st")
        found_file = kept / "found.st"
        member.load(Stored(load_file(found_file), found_file))
