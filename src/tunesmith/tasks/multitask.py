"""Several tasks at once on one model: a shared body, and a head for each task that needs one.

    MemberRecord(member, record) ──the member's own encode──> examples ──its head, its objective

A member is any task, with its own name, options and data. Members that write words share the
model's own output layer; every other one has a head of its own on the shared body. How many records
of a step are whose is the mixture's (`data.mixture`): by the size of the data, by its root, or as
stated; a member may come in later, while those before it are replayed. Each member is measured by
its own metrics, named `member/metric`, and has a verdict of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from tunesmith.errors import DataError
from tunesmith.recipes.choice import TaskChoice
from tunesmith.recipes.data import DataOptions
from tunesmith.recipes.section import conflict
from tunesmith.registry import OBJECTIVES, TASKS
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Sums, Task
from tunesmith.tasks.parts.pieces import owners

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.data.mixture import Portion
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model
    from tunesmith.objectives.base import ByMember

_NAME = r"^[a-z][a-z0-9_-]*$"
WRITING = ("causal_lm", "seq2seq_lm", "masked_lm")
"""Heads that are the model's own layer over the vocabulary, which members share."""


class MemberRecord(BaseModel):
    """A record, and whose it is."""

    model_config = ConfigDict(frozen=True)

    member: str = Field(description="the name of a member")
    record: SerializeAsAny[BaseModel] = Field(description="a record of that member's task")


class Member(BaseModel):
    """One of the tasks: what is learnt, from which records, and how much of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: TaskChoice = Field(description="what is learnt: a task's name, or its name and options")
    data: DataOptions = Field(description="its records")
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        allow_inf_nan=False,
        description="its share of the records, beside the others' weights, with `mixing: weights`",
    )
    begin: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the steps after which it comes in; 0: from the first step",
    )
    ramp: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the steps over which it then grows to its full share; with `begin` "
        "at most 1",
    )
    metric: str | None = Field(
        default=None,
        min_length=1,
        description="metric that decides its verdict; null: its task's own",
    )

    @field_validator("task", mode="before")
    @classmethod
    def _one_task(cls, task: Any) -> Any:
        if (task.get("name") if isinstance(task, Mapping) else task) == "multitask":
            raise ValueError("A member is one task; list all tasks side by side")
        return task

    @field_validator("data", mode="before")
    @classmethod
    def _read_at_once(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("streaming"):
            raise ValueError(
                "The records of several tasks are mixed, and a stream has no size: leave"
                " `streaming` out"
            )
        return data

    @model_validator(mode="after")
    def _a_ramp_begins(self) -> Member:
        if self.ramp and not self.begin:
            raise ValueError("`ramp` is for a member that comes in later: set `begin` as well")
        if self.begin + self.ramp > 1 + 1e-9:  # 0.35 + 0.65, as floats are added
            raise ValueError(
                f"it comes in at {self.begin:g} of the steps and grows over {self.ramp:g} of them,"
                " so it never reaches its full share: `begin` and `ramp` together are at most 1"
            )
        return self


@TASKS.register("multitask")
class MultiTask(Task):
    """Several tasks at once over one model, each with its own data, metrics and verdict."""

    Record = MemberRecord
    head = "causal_lm"
    kinds = frozenset({"decoder", "encoder", "encoder-decoder"})
    objective = ""
    primary = ""

    class Options(BaseModel):
        """Which tasks, and how their records are mixed."""

        model_config = ConfigDict(extra="forbid")

        members: dict[str, Member] = Field(
            min_length=1, description="the tasks, by a name of your own"
        )
        mixing: Literal["proportion", "temperature", "weights"] = Field(
            default="proportion",
            description="what a member's share of the records follows: the size of its data, that "
            "size to the power 1 / temperature (small ones are seen more often), or its weight",
        )
        temperature: float = Field(
            default=2.0,
            ge=1.0,
            le=100.0,
            description="of `mixing: temperature`: 1 is by size, a high one nearly equal shares",
        )
        replay: float = Field(
            default=0.2,
            ge=0.0,
            lt=1.0,
            description="least share of the records that the members keep together which came in "
            "before the newest",
        )

        @field_validator("members")
        @classmethod
        def _names(cls, members: dict[str, Member]) -> dict[str, Member]:
            import re

            wrong = [name for name in members if not re.match(_NAME, name)]
            if wrong:
                raise ValueError(
                    f"{wrong[0]!r} cannot name a member: use small letters, digits, - and _"
                )
            if all(member.begin for member in members.values()):
                raise ValueError("one member must be there from the first step: leave its `begin`")
            return members

        @model_validator(mode="after")
        def _what_is_set_is_read(self) -> MultiTask.Options:
            usual = Member.model_fields["weight"].default
            weighed = [name for name, each in self.members.items() if each.weight != usual]
            if weighed and self.mixing != "weights":
                raise conflict(
                    f"members.{weighed[0]}.weight",
                    f"Weights are not read with `mixing: {self.mixing}`",
                    "Set task.mixing to weights, or leave the weight out.",
                )
            usual = type(self).model_fields["temperature"].default
            if self.temperature != usual and self.mixing != "temperature":
                raise conflict(
                    "temperature",
                    f"The temperature is not read with `mixing: {self.mixing}`",
                    "Set task.mixing to temperature, or leave the temperature out.",
                )
            return self

    def __init__(self, options: BaseModel) -> None:
        super().__init__(options)
        self.members: dict[str, Task] = {
            name: TASKS.get(member.task.name)(member.task.options)
            for name, member in self.options.members.items()
        }
        first = next(iter(self.members))
        self.objective = self.members[first].objective
        self.primary = next(iter(self.primaries.values()))

    @property
    def leading(self) -> str:
        """The member whose model carries the body: one that writes, where there is one."""
        writing = (name for name, task in self.members.items() if task.head in WRITING)
        return next(writing, next(iter(self.members)))

    def head_for(self, kind: str) -> str:
        """Return the head of the member whose model carries the body."""
        return self.members[self.leading].head_for(kind)

    def objectives(self) -> ByMember:
        """Return the members' objectives as one."""
        from tunesmith.objectives.base import ByMember

        return ByMember(
            {name: OBJECTIVES.get(task.objective)() for name, task in self.members.items()}
        )

    def portions(self, sizes: Mapping[str, int]) -> dict[str, Portion]:
        """Return how much of each member there is.

        Args:
            sizes: how many training examples each has.
        """
        from tunesmith.data.mixture import Portion, weights

        members, options = self.options.members, self.options
        stated = [member.weight for member in members.values()]
        counts = [sizes[name] for name in members]
        found = weights(counts, options.mixing, options.temperature, stated)
        return {
            name: Portion(weight, member.begin, member.ramp)
            for (name, member), weight in zip(members.items(), found, strict=True)
        }

    def study(self, records: Sequence[MemberRecord]) -> None:
        """Let each member study its own records."""
        for name, task in self.members.items():
            task.study([each.record for each in records if each.member == name])
        self.primary = next(iter(self.primaries.values()))  # some find theirs in the records

    def bind(self, model: Model) -> None:
        """Bind each member to the model with its head."""
        for name, task in self.members.items():
            task.bind(model.of(name))

    def remarks(self) -> list[str]:
        """Return what each member has to say."""
        return [f"{name}: {said}" for name, task in self.members.items() for said in task.remarks()]

    def check_held_out(self, part: str, records: Sequence[MemberRecord]) -> None:
        """Let each member look at its own held-out records.

        Raises:
            DataError: a member has none, or refuses them.
        """
        for name, task in self.members.items():
            own = [each.record for each in records if each.member == name]
            if part == "test" and len(own) < 2:
                raise DataError(
                    f"The test set of {name!r} has {len(own)} record: no difference could be told"
                    " from chance.",
                    where=f"task.members.{name}.data.test",
                    fix="Give more records, or a larger share.",
                )
            task.check_held_out(part, own)

    def lookalikes(self, record: MemberRecord) -> Collection[str]:
        """Return what the record's member finds."""
        return self.members[record.member].lookalikes(record.record)

    def encode(self, record: MemberRecord) -> Encoded:
        """Encode a record as its member does."""
        return self.members[record.member].encode(record.record)

    def pieces(self, record: MemberRecord) -> list[Encoded]:
        """Encode a record as its member does."""
        return self.members[record.member].pieces(record.record)

    @property
    def primaries(self) -> dict[str, str]:
        """The metric that decides each member's verdict, by member."""
        return {
            name: f"{name}/{self.options.members[name].metric or task.primary}"
            for name, task in self.members.items()
        }

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics of all members, named `member/metric`."""
        return {
            f"{name}/{metric.name}": _of_member(name, metric)
            for name, task in self.members.items()
            for metric in task.metrics.values()
        }

    def measure(
        self,
        engine: Engine,
        records: Sequence[MemberRecord],
        examples: Sequence[Encoded],
        *,
        generate: int,
        console: Console,
        tokens_per_batch: int = 4096,
    ) -> list[ExampleScore]:
        """Score every record as its member does; `generate` of each member."""
        owner = owners(examples)
        found: list[ExampleScore] = [ExampleScore(place, {}) for place in range(len(records))]
        for name, task in self.members.items():
            places = [place for place, each in enumerate(records) if each.member == name]
            if not places:
                continue
            mine = set(places)
            with engine.answering_as(name):
                scores = task.measure(
                    engine,
                    [records[place].record for place in places],
                    [examples[i] for i, place in enumerate(owner) if place in mine],
                    generate=generate,
                    console=console,
                    tokens_per_batch=tokens_per_batch,
                )
            for place, score in zip(places, scores, strict=True):
                statistics = {f"{name}/{key}": value for key, value in score.statistics.items()}
                found[place] = ExampleScore(place, statistics, score.output)
        return found

    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Not called: a run of several tasks is asked as one of them (`Run.of`)."""
        raise NotImplementedError("Ask one of the members.")

    def present(self, record: MemberRecord) -> tuple[str, str]:
        """Return the member and its input, and the right answer."""
        given, answer = self.members[record.member].present(record.record)
        return f"[{record.member}] {given}", answer

    def state(self) -> dict[str, Any]:
        """Return what each member found out."""
        return {name: task.state() for name, task in self.members.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what each member found out."""
        for name, task in self.members.items():
            task.load_state(state[name])
        self.primary = next(iter(self.primaries.values()))


def _of_member(member: str, metric: Metric) -> Metric:
    """Return a metric under the name of its member, made of that member's statistics."""
    compute: Callable[[Sums], NDArray[np.float64]] = metric.compute

    def own(sums: Sums) -> NDArray[np.float64]:
        return compute({name: sums[f"{member}/{name}"] for name in metric.statistics})

    return replace(
        metric,
        name=f"{member}/{metric.name}",
        statistics=tuple(f"{member}/{name}" for name in metric.statistics),
        compute=own,
    )
