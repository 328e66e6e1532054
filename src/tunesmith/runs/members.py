"""What a recipe names, made: its task, technique, objective and operations, and what decides.

Nothing here has seen records or a model. What cannot go together by itself is refused.
"""

from __future__ import annotations

from tunesmith.errors import DataError, RecipeError, suggest
from tunesmith.models.surgery.base import Operation
from tunesmith.objectives.base import Objective
from tunesmith.recipes.schema import Recipe
from tunesmith.recipes.training import TrainingOptions
from tunesmith.registry import OBJECTIVES, OPERATIONS, RETAINERS, TASKS, TECHNIQUES
from tunesmith.runs.together import Together
from tunesmith.tasks.base import Task
from tunesmith.tasks.multitask import MultiTask
from tunesmith.techniques.base import Technique


def make_task(recipe: Recipe) -> Task:
    """Return the recipe's task, not bound to a model yet."""
    task: Task = TASKS.get(recipe.task.name)(recipe.task.options)
    return task


def make_technique(recipe: Recipe, task: Task) -> Technique:
    """Return the recipe's technique; of several tasks, that of each."""
    if isinstance(task, MultiTask):
        return Together.of(recipe, task)
    technique: Technique = TECHNIQUES.get(recipe.technique.name)(
        recipe.technique.options, task.head
    )
    return technique


def make_operations(recipe: Recipe) -> list[Operation]:
    """Return the recipe's operations, in their order.

    Raises:
        RecipeError: one stands there twice, and the second would take the place of the first.
    """
    made = [OPERATIONS.get(each.name)(each.options) for each in recipe.surgery]
    once = [operation.name for operation in made if operation.replaces]
    twice = next((name for name in once if once.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(
            "It is named twice, and the second would take the place of the first.",
            where=f"surgery.{twice}",
            fix="Name it once, with all of its options.",
        )
    return made


def make_objective(recipe: Recipe, task: Task) -> Objective:
    """Return the recipe's objective, or the task's own."""
    if recipe.objective is None:
        return own_objective(task)
    chosen: Objective = OBJECTIVES.get(recipe.objective.name)(recipe.objective.options)
    needed: type[Objective] = OBJECTIVES.get(task.objective)
    fix = f"Leave it out, or choose {task.objective!r}."
    if chosen.readout is not needed.readout:
        raise RecipeError(
            f"The objective {chosen.name!r} reads {chosen.readout.__name__}, but the task"
            f" {task.name!r} gives {needed.readout.__name__}.",
            where="objective",
            fix=fix,
        )
    if chosen.target and chosen.target != needed.target:
        raise RecipeError(
            f"The objective {chosen.name!r} learns {chosen.target}, but the task {task.name!r}"
            f" gives {needed.target}.",
            where="objective",
            fix=fix,
        )
    return chosen


def own_objective(task: Task) -> Objective:
    """Return the objective that a task learns under, where the recipe names none."""
    if isinstance(task, MultiTask):
        return task.objectives()
    own: Objective = OBJECTIVES.get(task.objective)()
    return own


def primary_metric(recipe: Recipe, task: Task) -> str:
    """Return the metric that decides: the recipe's, or the task's own.

    Raises:
        RecipeError: the task has no metric of that name.
    """
    name = recipe.evaluation.metric or task.primary
    if name not in task.metrics:
        raise RecipeError(
            f"The task {task.name!r} has no metric {name!r}.",
            where="evaluation.metric",
            fix=suggest(name, task.metrics),
        )
    return name


def check_decides(recipe: Recipe, task: Task, tested: int) -> None:
    """Refuse a test that could not decide, before anything is trained.

    Args:
        tested: how many test records there are.

    Raises:
        RecipeError: the task has no such metric, or it needs answers that are not generated.
        DataError: there are fewer than two test records.
    """
    metric = task.metrics[primary_metric(recipe, task)]
    if metric.generated and recipe.evaluation.generate < 2:
        raise RecipeError(
            f"The metric {metric.name!r}, which decides, is measured on generated answers; fewer"
            " than two of them show no difference.",
            where="evaluation.generate",
            fix="Raise it, or name another metric under evaluation.metric.",
        )
    if tested < 2:
        raise DataError(
            f"The test set has {tested} record: no difference could be told from chance.",
            where="data.test",
            fix="Give more records, or a larger share.",
        )


def selects(recipe: Recipe) -> bool:
    """Return whether anything is chosen by validation, so that data must be split off for it."""
    retainers = (RETAINERS.get(choice.name) for choice in recipe.retain)
    return selects_steps(recipe.training) or any(kind.needs_validation for kind in retainers)


def selects_steps(training: TrainingOptions) -> bool:
    """Return whether there are validations on the way."""
    return training.keep_best or training.patience is not None or bool(training.validate_every)
