"""A finished run, to look at and to use: `run.verdict`, `run.predict([...])`, `run.stream(...)`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tunesmith.engine.engine import Engine
from tunesmith.errors import InputError
from tunesmith.models.kinds import kind_of
from tunesmith.models.load import load_model, read_config
from tunesmith.models.notes import read_notes
from tunesmith.models.resolve import resolve
from tunesmith.recipes.load import load_recipe
from tunesmith.recipes.schema import Recipe
from tunesmith.registry import TASKS
from tunesmith.runs.folder import RunFolder
from tunesmith.runs.multitask import check_member, for_member
from tunesmith.runs.result import as_recorded, computed_in, load_engine
from tunesmith.tasks.base import Prediction, Task
from tunesmith.tasks.multitask import MultiTask

Who = Literal["tuned", "base"]


class Run:
    """One run, read from its directory. Models are loaded when they are first asked for.

    Args:
        member: of a run of several tasks, the one that is meant; see `of`.
    """

    def __init__(self, folder: RunFolder, member: str | None = None) -> None:
        self.folder = folder
        self.member = member
        self._engines: dict[Who, Engine] = {}

    def of(self, member: str | None) -> Run:
        """Return a run of several tasks as a run of one of them.

        Raises:
            RecipeError: there is no such member; or None was given, and one must be named.
        """
        about = self.folder.read_stored(self.folder.task)
        check_member(about["task"]["name"], about["task"].get("members"), member)
        return Run(self.folder, member)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe as resolved; of a member, as if it had been learnt alone.

        Raises:
            RecipeError: see `of`.
        """
        return for_member(load_recipe(self.folder.recipe), self.member)

    @property
    def model_folder(self) -> Path:
        """Where the result lies, as its ecosystem's reader takes it."""
        return self.folder.model if self.member is None else self.folder.model / self.member

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.folder.path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The comparison of before and after, as in `evaluation/metrics.json`."""
        return self.folder.read_json(self.folder.metrics)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The run in figures, as in `summary.json`."""
        return self.folder.read_json(self.folder.summary)

    @property
    def verdict(self) -> str:
        """`improved`, `no evidence` or `worse`, by the primary metric's interval."""
        return str(self.metrics["verdict"])

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder.report

    def predict(self, inputs: Sequence[Any], *, who: Who = "tuned") -> list[Prediction]:
        """Answer inputs: texts, or for `instruct` also lists of chat messages.

        Args:
            who: the fine-tuned model, or the base that it came from.
        """
        engine = self.engine(who)
        return self.task.predict(engine, inputs)

    def stream(
        self, messages: Sequence[Any], *, who: Who = "tuned", temperature: float = 0.0
    ) -> Iterator[str]:
        """Yield the answer to a conversation, piece by piece.

        Raises:
            InputError: the run's task does not generate text.
        """
        engine = self.engine(who)
        prompt = self.task.prompt(messages)
        if prompt is None:
            raise InputError(
                f"The task {self.task.name!r} does not generate text.",
                where=str(self.path),
                fix="Use `tunesmith predict`.",
            )
        yield from _decoded(engine, prompt.ids, prompt.stop_ids, prompt.max_new_tokens, temperature)

    @cached_property
    def task(self) -> Task:
        """The run's task, with what it found in the data; bound once an engine is made."""
        about = self.folder.read_stored(self.folder.task)
        options = dict(about["task"])
        kind = TASKS.get(about["task"]["name"])
        del options["name"]
        try:
            task: Task = kind(kind.Options.model_validate(options))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"Another version of Tunesmith wrote it: task.{place}: {first['msg']}.",
                where=str(self.folder.task),
                fix="Open it with the version that the run's record.json names.",
            ) from error
        task.load_state(about["state"])
        if isinstance(task, MultiTask):
            check_member(task.name, task.members, self.member)
            return task.members[self.member or ""]
        return task

    def engine(self, who: Who = "tuned") -> Engine:
        """Return an engine over the fine-tuned model, or over its base; it computes as the run did.

        Raises:
            InputError: the run has not finished, or the base (for a classifier) has no answers.
            RecipeError: it is of several tasks, and none is named; see `of`.
        """
        task = self.task  # of a run of several tasks, says that one of them must be named
        if who not in self._engines:
            self._engines[who] = self._tuned() if who == "tuned" else self._base()
        engine = self._engines[who]
        task.bind(engine.model)
        return engine

    @cached_property
    def record(self) -> dict[str, Any]:
        """What the run began with, as in `record.json`."""
        return self.folder.read_stored(self.folder.record)

    def _tuned(self) -> Engine:
        self.folder.read_json(self.folder.metrics)  # says in words that it has not finished
        return load_engine(self.model_folder, self.record)

    def _base(self) -> Engine:
        about = self.folder.read_stored(self.folder.task)
        if self.task.head not in ("causal_lm", "seq2seq_lm"):
            raise InputError(
                "The base model has no head for this task, so there is nothing to compare with.",
                where=str(self.path),
            )
        source = resolve(about["base"]["name"])
        base = read_notes(self.model_folder).base
        model = load_model(
            source,
            head=self.task.head_for(kind_of(read_config(source))),
            dtype=computed_in(self.record),
            quantised=base.quantised,
            streamed=base.streamed,
        )
        return as_recorded(model, self.record)


def _decoded(
    engine: Engine,
    prompt: Sequence[int],
    stop_ids: tuple[int, ...],
    max_new_tokens: int,
    temperature: float,
) -> Iterator[str]:
    """Decode ids as they come, holding back bytes that are not a whole character yet."""
    from tunesmith.engine.generation import Sampling

    sampling = Sampling(max_new_tokens, stop_ids, temperature=temperature)
    ids: list[int] = []
    said = ""
    for token in engine.stream(prompt, sampling):
        ids.append(token)
        text = engine.model.tokenizer.decode(ids, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            yield text[len(said) :]
            said = text
