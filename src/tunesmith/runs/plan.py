"""What training would take: every technique side by side, here and on devices of other sizes.

    recipe ──plan_training──> TechniquePlan of each technique: what learns, memory, time, what fits

Each technique is prepared in a process of its own, since memory that one has used would be counted
to the next. Here, memory and time are those of this machine and its number format. For another
device the same parts are counted in bfloat16, what learns and its moments in float32, without what
the process holds besides; nothing was run there. Of a model whose weights are not on this machine
the configuration is enough: weights are counted, and none is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tunesmith.console import Console
from tunesmith.engine.checkpointing import Checkpointed
from tunesmith.errors import InputError
from tunesmith.models.load import has_tokenizer
from tunesmith.models.resolve import shape_of
from tunesmith.recipes.load import load_recipe
from tunesmith.registry import TECHNIQUES
from tunesmith.runs.check import estimated_seconds
from tunesmith.runs.prepare import Prepared, prepare
from tunesmith.runs.roofline import meter_of
from tunesmith.runs.shape import memory_of
from tunesmith.training.memory import (
    Memory,
    MemoryEstimate,
    MicroBatch,
    free_bytes,
    largest_micro_batch,
)

HERE = "here"

DEVICES = {"24 GB": 24 * 10**9, "80 GB": 80 * 10**9, "141 GB": 141 * 10**9}
"""Memory of the accelerators that are common today, in bytes."""

_USABLE = 0.95
"""Share of a device that is left beside its driver's own and what lies between blocks."""

_MOST_TOKENS = 2**24

_STEPS_COUNTED = 64

_OF_SHAPES = ("full", "layers", "lora", "repurpose")
"""Techniques that are planned of a shape unless others are named: some others make whole weights
when they are prepared."""


@dataclass(frozen=True)
class DevicePlan:
    """One technique on one device.

    Attributes:
        device: `here`, or the size of its memory.
        capacity: bytes that training may take there.
        peak: bytes predicted for the recipe's micro-batches.
        largest: tokens of the largest micro-batch that fits, of documents as long as the recipe's;
            None: not even one document fits.
        largest_twice: the same where every layer is computed twice to save memory.
    """

    device: str
    capacity: int
    peak: int
    largest: int | None
    largest_twice: int | None


@dataclass(frozen=True)
class TechniquePlan:
    """What a recipe would take with one technique.

    Attributes:
        refused: why this technique cannot do it, or None.
        trainable: parameters that learn.
        memory: bytes at the peak of a step on this machine, by what they are for.
        seconds: of training, from a first step taken twice; None where nothing is learnt by steps,
            or the step would not fit here. Of a shape the least that it could take, by the rate
            of products that `tunesmith bench hardware` measured; None where it did not.
        tokens_per_second: the same as a rate.
    """

    technique: str
    refused: str | None = None
    trainable: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    tokens_per_second: float | None = None
    devices: list[DevicePlan] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """Bytes at the peak of a step on this machine."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class TrainingPlan:
    """What `plan_training` found.

    Attributes:
        chosen: the recipe's own technique, which stands first.
        tokens: that the whole training reads.
        micro_batch: tokens of the largest micro-batch.
        weights: whether the model's weights are here; else its shape was planned.
        tokenizer: whether its tokenizer is; else tokens are taken to be four characters long.
    """

    model: str
    task: str
    chosen: str
    tokens: int
    micro_batch: int
    weights: bool
    tokenizer: bool
    techniques: list[TechniquePlan]


def plan_training(
    recipe: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    techniques: Sequence[str] = (),
    console: Console | None = None,
) -> TrainingPlan:
    """Find out what training would take with each technique. Trains nothing, writes nothing.

    Args:
        techniques: names, with their default options; default: all there are, of a shape the
            most usual. The recipe's own, with the options that it states, is always among them.

    Raises:
        InputError: the recipe, its data or its model is wrong: the same that `train` would raise;
            or there is no technique of such a name.
    """
    console = console or Console()
    asked = load_recipe(recipe, overrides)
    own = asked.technique.name
    for name in techniques:
        TECHNIQUES.get(name)
    shape = shape_of(asked.model, Console(quiet=True))
    usual = TECHNIQUES.names() if shape is None else _OF_SHAPES
    others = [name for name in techniques or usual if name != own]
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool,
        console.progress("techniques", 1 + len(others)) as bar,
    ):
        about, first = pool.submit(_plan_own, recipe, tuple(overrides)).result()
        bar.advance()
        found = [first]
        for name in others:
            changed = (*overrides, f"technique={name}")
            found.append(pool.submit(_plan_other, name, recipe, changed).result())
            bar.advance()
    return replace(about, techniques=found)


def _plan_own(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[str]
) -> tuple[TrainingPlan, TechniquePlan]:
    prepared = _prepared(recipe, overrides)
    source = prepared.model.source
    steps, own = prepared.plan(), prepared.technique.name
    about = TrainingPlan(
        model=prepared.model.source.name,
        task=prepared.task.name,
        chosen=own,
        tokens=steps.tokens,
        micro_batch=largest_micro_batch(steps, prepared.engine).tokens,
        weights=source.origin != "shape",
        tokenizer=has_tokenizer(source.path),
        techniques=[],
    )
    return about, plan_technique(prepared)


def _prepared(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str]) -> Prepared:
    asked, console = load_recipe(recipe, overrides), Console(quiet=True)
    return prepare(asked, console, shape=shape_of(asked.model, console))


def _plan_other(
    name: str, recipe: str | Path | Mapping[str, Any], overrides: Sequence[str]
) -> TechniquePlan:
    """Plan a technique that the recipe does not name; that it does not go together is a finding."""
    try:
        return plan_technique(_prepared(recipe, overrides))
    except InputError as error:
        return TechniquePlan(name, refused=error.what)


def plan_technique(prepared: Prepared) -> TechniquePlan:
    """Return what a prepared recipe takes; nothing of the model is changed."""
    engine = prepared.engine
    chosen = engine.checkpoints.chosen
    free = free_bytes(engine.device)
    steps = prepared.plan()
    batch = largest_micro_batch(steps, engine)
    engine.checkpoints.choose(Checkpointed())
    memory = memory_of(engine, steps)
    devices = [_on_device(memory, batch, HERE, free)]
    devices += [
        _on_device(memory, batch, name, int(_USABLE * size)) for name, size in DEVICES.items()
    ]
    engine.checkpoints.choose(chosen)
    fits = prepared.memory.total <= free
    seconds = _seconds(prepared) if fits else None
    if prepared.technique.solver:  # it reads the records once, in evaluation
        devices = [replace(found, largest=None, largest_twice=None) for found in devices]
    return TechniquePlan(
        technique=prepared.technique.name,
        trainable=sum(p.numel() for p in engine.optimizer.parameters.values()),
        memory=prepared.memory.parts(),
        seconds=seconds,
        tokens_per_second=steps.tokens / seconds if seconds else None,
        devices=devices,
    )


def _seconds(prepared: Prepared) -> float | None:
    """Time a step; of a shape, count what its products would take at this machine's rate."""
    if prepared.model.source.origin != "shape":
        return estimated_seconds(prepared)
    meter = None if prepared.technique.solver else meter_of(prepared.engine, {})
    if meter is None or meter.roof.source != "kept":
        return None
    plan = prepared.plan()
    looked = min(len(plan), _STEPS_COUNTED)
    counted = sum(meter.flops(plan[number]) for number in range(looked))
    return counted * len(plan) / looked / meter.roof.flops_per_second


def _on_device(memory: Memory, batch: MicroBatch, device: str, capacity: int) -> DevicePlan:
    def peak(size: MicroBatch, checkpointed: Checkpointed) -> int:
        estimate = memory.estimate(size, checkpointed)
        return (estimate if device == HERE else in_bfloat16(memory, estimate)).total

    def largest(checkpointed: Checkpointed) -> int | None:
        return largest_tokens(batch, capacity, lambda size: peak(size, checkpointed))

    layers = len(memory.engine.checkpoints.layers)
    return DevicePlan(
        device,
        capacity,
        peak(batch, Checkpointed()),
        largest(Checkpointed()),
        largest(Checkpointed(layers)),
    )


def largest_tokens(
    batch: MicroBatch, capacity: int, peak: Callable[[MicroBatch], int]
) -> int | None:
    """Return the tokens of the largest micro-batch, of documents like those of `batch`, that fits.

    To a hundredth; None where not even one document fits.

    Args:
        peak: bytes that a micro-batch is predicted to take.
    """
    document = max(1, batch.squares // max(1, batch.tokens))
    fits = [
        number
        for number in range(int(_MOST_TOKENS / document).bit_length())
        if peak(scaled(batch, document << number)) <= capacity
    ]
    if not fits:
        return None
    low, high = document << max(fits), document << (max(fits) + 1)
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (middle, high) if peak(scaled(batch, middle)) <= capacity else (low, middle)
    return low


def scaled(batch: MicroBatch, tokens: int) -> MicroBatch:
    """Return a micro-batch of so many tokens, of documents like those of `batch`."""
    share = tokens / batch.tokens
    return replace(
        batch,
        tokens=tokens,
        squares=int(batch.squares * share),
        targets=int(batch.targets * share),
        others=tuple(scaled(each, max(1, round(each.tokens * share))) for each in batch.others),
    )


def in_bfloat16(memory: Memory, estimate: MemoryEstimate) -> MemoryEstimate:
    """Return an estimate for a GPU: frozen weights and activations in bfloat16, no host process."""
    narrow = 2 / memory.engine.dtype.itemsize
    learnt, packed = memory.learnt_bytes, memory.packed_bytes
    return MemoryEstimate(
        process=0,
        weights=int((estimate.weights - learnt - packed) * narrow) + learnt + packed,
        gradients=estimate.gradients,
        optimizer=estimate.optimizer,
        activations=int(estimate.activations * narrow),
        temporary=int(estimate.temporary * narrow),
    )
