"""One technique for several heads on one body: each member is prepared and saved by its own.

    Together(members) ──build_members──> Model with members ──save──> a folder of each member

What concerns the body (layers in turn, ranks that are shared out, what was found in the data) is
done once, by the technique of the member whose model carries the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tunesmith.errors import RecipeError
from tunesmith.models.model import Model
from tunesmith.recipes.schema import Recipe
from tunesmith.registry import TECHNIQUES
from tunesmith.tasks.multitask import MultiTask
from tunesmith.techniques.base import Fits, ParameterGroup, Technique


class Together(Technique):
    """A technique for each of several tasks.

    Args:
        members: the techniques by the names of the members, all with the same options.
        leading: the member whose model carries the body.
    """

    def __init__(self, members: Mapping[str, Technique], leading: str) -> None:
        self.members = dict(members)
        self.leading = leading
        self._first = self.members[leading]
        super().__init__(self._first.options)
        self.name = self._first.name  # type: ignore[misc]

    @classmethod
    def of(cls, recipe: Recipe, task: MultiTask) -> Together:
        """Return the recipe's technique for each of the task's members."""
        kind = TECHNIQUES.get(recipe.technique.name)
        options = recipe.technique.options
        made = {name: kind(options, member.head) for name, member in task.members.items()}
        return cls(made, task.leading)

    @property
    def begins_as_base(self) -> bool:
        """Whether a prepared model answers as the base does."""
        return self._first.begins_as_base

    def changes_base(self) -> str | None:
        """Return how it changes the base's own weights; see `Technique`."""
        return self._first.changes_base()

    def state(self) -> dict[str, Any]:
        """Return what was found out about model and data."""
        return self._first.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        for technique in self.members.values():
            technique.load_state(state)

    def facts(self) -> dict[str, str]:
        """Return what the report says of this technique beside its name."""
        return self._first.facts()

    @property
    def solver(self) -> Fits | None:
        """None: heads that are fitted at once do not share a body that learns."""
        return None

    def prepare(self, model: Model) -> None:
        """Prepare the model that carries the body; `build_members` does so for the others."""
        self._first.prepare(model)

    def parameter_groups(self, model: Model) -> list[ParameterGroup]:
        """Return what learns of all members, what they share only once.

        What is a member's own is called by its name: `member.classifier.weight`.
        """
        seen: set[int] = set()
        found: list[ParameterGroup] = []
        for name in (self.leading, *(each for each in model.members if each != self.leading)):
            prefix = "" if name == self.leading else f"{name}."
            for group in self.members[name].parameter_groups(model.of(name)):
                own = {
                    f"{prefix}{key}": parameter
                    for key, parameter in group.parameters.items()
                    if id(parameter) not in seen
                }
                seen |= set(map(id, own.values()))
                found.append(
                    ParameterGroup(
                        own,
                        group.learning_rate_scale,
                        group.weight_decay,
                        group.projection,
                        group.at_once,
                    )
                )
        return found

    def save(self, model: Model, folder: Path) -> None:
        """Write each member into a folder of its name, as if it had been learnt alone."""
        for name in model.members:
            self.save_member(model, name, folder / name)

    def save_member(self, model: Model, name: str, folder: Path) -> None:
        """Write one member, in the format that its own ecosystem loads."""
        own = model.of(name)
        saver = self._first if own is model else self.members[name]
        saver.save(own, folder)

    def begin(self, model: Model, steps: int) -> None:
        """Take note of how many steps there are."""
        self._first.begin(model, steps)

    def before_step(self, step: int) -> None:
        """Change who learns in this step."""
        self._first.before_step(step)

    def before_update(self, step: int) -> dict[str, float]:
        """Add to the gradients of the step."""
        return self._first.before_update(step)

    def after_update(self, step: int) -> None:
        """Change what learns, after it was moved."""
        self._first.after_update(step)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a resumed run needs beside the weights."""
        return self._first.tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` returned."""
        self._first.load_tensors(tensors)


def refuse_together(recipe: Recipe, technique: Technique) -> None:
    """Refuse what cannot be done for several tasks at once, before anything is loaded.

    Args:
        technique: of one member, any.

    Raises:
        RecipeError: says what, and what to do instead.
    """
    if technique.alone:
        raise RecipeError(
            f"The technique {technique.name!r} does not suit the task 'multitask':"
            f" {technique.alone}.",
            where="technique",
            fix="Choose lora, layers or full, or train each task alone.",
        )
    if recipe.objective is not None:
        raise RecipeError(
            "Several tasks learn at once, each under the objective of its own.",
            where="objective",
            fix="Leave it out.",
        )
    if recipe.retain:
        raise RecipeError(
            "Retainers look at one task; of several, those that came in earlier are replayed.",
            where="retain",
            fix="Leave it out; make the old records a member, and see task.replay.",
        )
    if recipe.base.stream:
        raise RecipeError(
            "Layers that are read from disk one by one cannot be shared by several heads.",
            where="base.stream",
            fix="Leave it out, or choose `quantize`.",
        )
