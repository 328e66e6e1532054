"""From a recipe's members to an engine: the model loaded, the head on it, what learns marked.

    Recipe, Task, Technique ──build_engine──> Engine

What cannot go together is refused as soon as it can be known, most of it before weights are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tunesmith.console import Console
from tunesmith.data.batch import Encoded
from tunesmith.engine.engine import Engine
from tunesmith.engine.optimizer import AdamWOptions
from tunesmith.engine.precision import choose_dtype
from tunesmith.errors import RecipeError
from tunesmith.models.altered import altered, settle, surgery_of
from tunesmith.models.kinds import check_fit, kind_of
from tunesmith.models.load import load_model, read_config
from tunesmith.models.members import share_body
from tunesmith.models.model import Model
from tunesmith.models.quantised import Quantised, stored_as
from tunesmith.models.resolve import Resolved, resolve
from tunesmith.models.seeded import seeded
from tunesmith.models.surgery.base import Operation
from tunesmith.recipes.schema import Recipe
from tunesmith.recipes.training import TrainingOptions
from tunesmith.runs.members import make_objective, make_operations
from tunesmith.runs.study import study_records
from tunesmith.runs.together import Together, refuse_together
from tunesmith.tasks.base import Task
from tunesmith.tasks.multitask import WRITING, MultiTask
from tunesmith.techniques.base import Technique


def build_engine(
    recipe: Recipe,
    task: Task,
    technique: Technique,
    console: Console,
    examples: Callable[[int], Sequence[Encoded]] = lambda count: (),
    shape: Resolved | None = None,
) -> Engine:
    """Load the model, put the task's head on it, and mark what learns.

    Args:
        examples: gives up to so many training examples, where a technique looks at some; it is
            called when the task has been bound.
        shape: the model's configuration, where its weights are not to be read.

    Raises:
        RecipeError, ModelError: the model, the task and the technique do not go together.
    """
    training = recipe.training
    dtype = choose_dtype(training.precision, _device())
    operations = make_operations(recipe)
    if shape is not None:
        check_plannable(recipe, technique, operations, shape)
    source = shape or altered(resolve(recipe.model, console=console), operations, console)
    if isinstance(task, MultiTask) and isinstance(technique, Together):
        model = _members(recipe, task, technique, source, examples)
    else:
        model = _prepared(recipe, task, technique, source, examples)
    task.bind(model)  # what learns may take room of the context
    return Engine(
        model,
        technique.parameter_groups(model),
        _updates(training),
        dtype=dtype,
        packing=training.packing,
        float8=training.precision == "float8",
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _prepared(
    recipe: Recipe,
    task: Task,
    technique: Technique,
    source: Resolved,
    examples: Callable[[int], Sequence[Encoded]],
) -> Model:
    """Load a model with the head of one task, and let the technique mark what learns of it."""
    training = recipe.training
    device = _device()
    dtype = choose_dtype(training.precision, device)
    operations = make_operations(recipe)
    kind = refuse(technique, task, source)
    head = choose_head(technique, task, operations, kind)
    quantised = quantised_base(recipe, technique, source, head)
    model = load_model(
        source,
        head=head,
        labels=task.outputs,
        dtype=dtype,
        seed=training.seed,
        quantised=quantised,
        streamed=recipe.base.stream,
    )
    if quantised is None:  # what is quantised was loaded to where it belongs
        model.module.to(device)
    model.surgery = tuple(surgery_of(source.path).get("changes", ()))
    with seeded(training.seed):
        settle(model, operations, "loaded")
    if technique.records_to_study:
        task.bind(model)
        study_records(
            technique,
            model,
            make_objective(recipe, task),
            examples(technique.records_to_study),
            dtype=dtype,
            seed=training.seed,
        )
    with seeded(training.seed):
        technique.prepare(model)
    settle(model, operations, "marked")
    if model.streamed is not None:
        model.streamed.check_unchanged()
    return model


def _members(
    recipe: Recipe,
    task: MultiTask,
    technique: Together,
    source: Resolved,
    examples: Callable[[int], Sequence[Encoded]],
) -> Model:
    """Load a model with the head of each member, all on the body of the leading one.

    Members that write words with the model's own output layer are one model.

    Args:
        examples: of the leading member.
    """
    kind = kind_of(read_config(source))
    heads = {name: member.head_for(kind) for name, member in task.members.items()}
    refuse_together(recipe, technique.members[technique.leading])
    for name, member in task.members.items():
        refuse(technique.members[name], member, source)
    found: dict[str, Model] = {}
    for name in (task.leading, *(each for each in heads if each != task.leading)):
        if found and heads[name] in WRITING:
            found[name] = found[task.leading]
            continue
        own = technique.members[name]
        if found:
            own.load_state(technique.state())
        found[name] = _prepared(recipe, task.members[name], own, source, examples)
        share_body(found[task.leading], found[name])
    first = found[task.leading]
    first.members = {name: found[name] for name in task.members}
    first.new_head = any(model.new_head for model in found.values())
    return first


def _updates(training: TrainingOptions) -> AdamWOptions:
    return AdamWOptions(
        weight_decay=training.weight_decay,
        beta1=training.beta1,
        beta2=training.beta2,
        epsilon=training.epsilon,
        max_grad_norm=training.max_grad_norm,
        kind=training.optimizer,
        clip_per_tensor=training.clip_per_tensor,
        in_backward=training.optimizer_in_backward,
        stochastic_rounding=training.stochastic_rounding,
        seed=training.seed,
    )


def check_plannable(
    recipe: Recipe, technique: Technique, operations: Sequence[Operation], shape: Resolved
) -> None:
    """Refuse what looks at weights, where only their shapes are known.

    Raises:
        RecipeError: names the option.
    """
    looks = {
        "task": recipe.task.name == "multitask",
        "surgery": any(operation.works_on == "files" for operation in operations),
        "retain": bool(recipe.retain),
        "base.stream": recipe.base.stream,
        "technique": bool(technique.records_to_study),
        "model": stored_as(read_config(shape)) is not None,
    }
    where = next((name for name, does in looks.items() if does), None)
    if where is not None:
        raise RecipeError(
            f"The weights of {shape.name} are not here, and this needs more than their shapes.",
            where=where,
            fix="Leave it out of the plan, or fetch the weights: `tunesmith models pull`.",
        )


def choose_head(
    technique: Technique, task: Task, operations: Sequence[Operation], kind: str
) -> str:
    """Return the head to load the model with: the task's, or what an operation makes of it.

    Raises:
        RecipeError: an operation cannot change that head, or the technique cannot go with the one
            that it makes of it.
    """
    needed = task.head_for(kind)
    head, own = needed, technique.head(needed)
    for operation in operations:
        head = operation.head(head)
        if head == needed:
            continue
        if own != needed:
            raise RecipeError(
                f"The technique {technique.name!r} brings a head of its own.",
                where=f"surgery.{operation.name}",
                fix="Leave it out; technique.head and technique.pooling say which.",
            )
        reason = technique.refuses("embedding", kind) or technique.unsuited("embedding")
        if reason:
            raise RecipeError(
                f"The technique {technique.name!r} does not suit a head that sentence-transformers"
                f" reads: {reason}.",
                where=f"surgery.{operation.name}",
            )
    return technique.head(head)


def quantised_base(
    recipe: Recipe, technique: Technique, source: Resolved, head: str
) -> Quantised | None:
    """Return how the base is to be quantised, or None where it is not.

    Args:
        head: that the model is loaded with.

    Raises:
        RecipeError: the technique would change a base that is quantised or lies on disk; says how.
    """
    kind, stream = recipe.base.quantize, recipe.base.stream
    stored = stored_as(read_config(source))
    if kind is None and stored is None and not stream:
        return None
    base = "base that lies on disk" if stream else "quantised base"
    reason = technique.changes_base()
    if reason:
        raise RecipeError(
            f"The technique {technique.name!r} cannot stand on a {base}: {reason}.",
            where="base.stream" if stream else "technique" if kind is None else "base.quantize",
            fix="Choose lora, or leave it out.",
        )
    if head in ("embedding", "features"):
        raise RecipeError(
            "The result would be for sentence-transformers, which would put it on the base as it is"
            f" published, not on a {base}.",
            where="base",
            fix="Leave it out.",
        )
    if stream and (stored or torch.cuda.is_available()):
        raise RecipeError(
            "Layers are read from disk one by one only on a processor, and as they are published.",
            where="base.stream",
            fix="Leave it out, or choose `quantize`.",
        )
    return None if kind is None else Quantised(kind, recipe.base.double_quantize)


def refuse(technique: Technique, task: Task, source: Resolved) -> str:
    """Refuse a technique or a task that cannot go with this kind of model, before it is loaded.

    Returns:
        The kind.

    Raises:
        RecipeError: says why.
    """
    config = read_config(source)
    head = task.head_for(kind_of(config))
    kind = check_fit(source.name, config, head)
    if kind not in task.kinds:
        raise RecipeError(
            f"The task {task.name!r} needs a {' or '.join(sorted(task.kinds))};"
            f" {source.name} is a model of kind {kind}.",
            where="model",
            fix="Choose another model: `tunesmith models list`.",
        )
    reason = technique.refuses(head, kind) or technique.unsuited(head)
    if reason:
        raise RecipeError(
            f"The technique {technique.name!r} does not suit the task {task.name!r}: {reason}.",
            where="technique",
        )
    return kind
