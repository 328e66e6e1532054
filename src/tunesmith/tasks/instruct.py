"""Instruct: learn to answer, from conversations.

    Conversation ──encode──> ids, learnt on the assistant's turns ──> log-likelihood of the answers
                 ──prompt──> ids, up to the last answer ──generate──> exact match, ROUGE-L, stops

Two instruments stand beside each other. Teacher forcing measures how likely the right answer is,
on every record; real generation measures what the model says by itself, on the first few. The
share of tokens that were guessed right *given the right ones before* is never called accuracy.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith.data.records import Conversation, Message
from tunesmith.data.turns import RowError, read_messages, read_tools
from tunesmith.errors import DataError, UnlearnableError
from tunesmith.registry import TASKS
from tunesmith.scores.translations import rouge
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Prompt, Task
from tunesmith.tasks.parts.answers import answer_prompts, answers_to, check_room
from tunesmith.tasks.parts.fitting import most_tokens
from tunesmith.tasks.parts.serving import check_asked
from tunesmith.tasks.parts.tokens import token_metrics, token_scores

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model


@TASKS.register("instruct")
class Instruct(Task):
    """A prompt or a conversation in, an answer out."""

    Record = Conversation
    head = "causal_lm"
    kinds = frozenset({"decoder"})
    objective = "token_likelihood"
    primary = "log_likelihood"

    class Options(BaseModel):
        """How conversations are laid out, and how long an answer may be."""

        model_config = ConfigDict(extra="forbid")

        max_length: int | None = Field(
            default=None,
            ge=2,
            description="most tokens of a conversation; by default the model's context",
        )
        max_new_tokens: int = Field(
            default=128, ge=1, description="most tokens of an answer that is generated"
        )
        system: str | None = Field(
            default=None, description="a system prompt for conversations that have none"
        )
        train_on: Literal["all", "last"] = Field(
            default="all",
            description="which turns of the assistant are learnt, calls of tools among them: all of"
            " a conversation, or its last; the others are only read",
        )
        template: str | None = Field(
            default=None,
            description="the chat template, as Jinja text; by default the model's own, or a plain"
            " one where it has none",
        )

    _today: date | None = None

    def state(self) -> dict[str, Any]:
        """Return the date that was written, where the chat template writes it."""
        return {"date": self._chat.today.isoformat()} if self._chat.facts.dated else {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back the date, so that what is read is what was learnt from."""
        self._today = date.fromisoformat(state["date"]) if "date" in state else None

    def bind(self, model: Model) -> None:
        """Take the tokenizer, its chat template and the context length."""
        from tunesmith.data.chat import ChatEncoder

        self._tokenizer = model.tokenizer
        self._chat = ChatEncoder(
            model.tokenizer,
            self.options.template,
            today=self._today,
            last_only=self.options.train_on == "last",
        )
        self._today = self._chat.today
        self._context: int = model.anatomy.context_length
        self._max_length = most_tokens(model, self.options.max_length)

    def remarks(self) -> list[str]:
        """Return what the chat template does to conversations."""
        return self._chat.facts.sentences()

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a trained answer."""
        return tuple(self._chat.stop_ids)

    @property
    def chat_template(self) -> str:
        """The template that conversations are learnt with: it alone serves."""
        return self._chat.template

    def lookalikes(self, record: Conversation) -> Collection[str]:
        """Return the texts of control tokens that are said, and that the template cannot take."""
        return self._chat.lookalikes(self._with_system(record.messages), record.tools)

    def check_saved(self, folder: Path, records: Sequence[Conversation]) -> None:
        """Check that the saved chat template writes each prompt as it was learnt.

        Raises:
            RunError: it does not.
        """
        check_asked(
            folder,
            self._chat,
            (
                (self._with_system(record.prompt), self._with_system(record.messages), record.tools)
                for record in records
            ),
        )

    def encode(self, record: Conversation) -> Encoded:
        """Encode a conversation; each turn of the assistant, or the last, and its end is learnt.

        Raises:
            DataError: the chat template does not accept it.
            UnlearnableError: nothing of it is learnt: no answer, or none that fits.
        """
        from tunesmith.data.batch import Encoded

        answers = [message for message in record.messages if message.role == "assistant"]
        if self.options.train_on == "last":
            answers = answers[-1:]
        if not any(answer.content.strip() or answer.tool_calls for answer in answers):
            raise UnlearnableError(
                "Nothing of it is learnt: the assistant says nothing.",
                fix="Give it an answer, or remove the record.",
            )
        messages = self._with_system(record.messages)
        stream, cut = self._chat.encode_within(messages, record.tools, self._max_length)
        if not stream.trained():
            raise UnlearnableError(
                f"Nothing that is learnt is left of it within {self._max_length} tokens"
                f" ({cut.tokens if cut else 0} had to be cut).",
                fix="Raise `task.max_length`, or shorten or remove the record.",
            )
        return Encoded({"text": stream}, cut=cut)

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        has_one = any(message.role == "system" for message in messages)
        if self.options.system is None or has_one:
            return list(messages)
        return [Message(role="system", content=self.options.system), *messages]

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Log-likelihood and perplexity by teacher forcing; the others by real generation."""
        changed = "20% of the generated answers change between right and wrong"
        found = [
            *token_metrics(),
            _generated("exact_match", "answers equal to the reference, word for word", changed),
            Metric.mean(
                "rouge_l",
                "how much of answer and reference is one common sequence of words (ROUGE-L F1)",
                over="generated",
                generated=True,
                assumed_sd=0.25,
                assumption="answers' changes differ by 0.25 (standard deviation)",
            ),
            _generated("stops_by_itself", "answers that end on a stop token", changed),
        ]
        return {metric.name: metric for metric in found}

    def measure(
        self,
        engine: Engine,
        records: Sequence[Conversation],
        examples: Sequence[Encoded],
        *,
        generate: int,
        console: Console,
        tokens_per_batch: int = 4096,
    ) -> list[ExampleScore]:
        """Score every record by teacher forcing, the first `generate` by real generation too.

        Records whose prompt leaves no room for an answer are not generated; a warning counts them.
        """
        rows = token_scores(engine, examples, tokens_per_batch=tokens_per_batch, console=console)
        outputs = self._generate(engine, records[:generate], console)
        for index, (text, stopped) in outputs.items():
            rows[index] |= _answer_scores(text, self._reference(records[index]), stopped=stopped)
        return [
            ExampleScore(index, row, outputs[index][0] if index in outputs else None)
            for index, row in enumerate(rows)
        ]

    def _generate(
        self, engine: Engine, records: Sequence[Conversation], console: Console
    ) -> dict[int, tuple[str, bool]]:
        prompts = [self._prompt(record.prompt, record.tools) for record in records]
        fitting = [
            index
            for index, prompt in enumerate(prompts)
            if len(prompt.ids) + prompt.max_new_tokens <= self._context
        ]
        if len(fitting) < len(prompts):
            console.warn(
                f"{len(prompts) - len(fitting)} of {len(prompts)} records were not measured by"
                " generation: prompt and answer would exceed the model's context"
                f" of {self._context} tokens."
            )
        if not fitting:
            return {}
        answers = answer_prompts(engine, [prompts[i] for i in fitting], console=console)
        return dict(zip(fitting, answers, strict=True))

    def _reference(self, record: Conversation) -> str:
        """The last answer as the template writes it, tool calls and all, without its end."""
        turns = self._with_system(record.messages)
        ids = self._chat.encode(turns, record.tools).ids
        prompt = self._chat.prompt_ids(self._with_system(record.prompt), record.tools)
        answer = [token for token in ids[len(prompt) :] if token not in self._chat.stop_ids]
        return str(self._tokenizer.decode(answer, skip_special_tokens=True))

    def _prompt(self, messages: Sequence[Message], tools: list[dict[str, Any]] | None) -> Prompt:
        ids = self._chat.prompt_ids(self._with_system(messages), tools)
        return Prompt(ids, self.stop_ids, self.options.max_new_tokens)

    def prompt(self, given: Any) -> Prompt:
        """Return what the answer to a text, or to a list of chat messages, starts from.

        Args:
            given: one of these, or `{"messages": [...], "tools": [...]}` with tools on offer.

        Raises:
            DataError: it is neither, or it does not fit.
        """
        prompt = self._prompt(*_asked(given))
        check_room(prompt, self._context)
        return prompt

    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Answer each text, list of chat messages (`Message` or dicts), or object with messages and
        tools, greedily.

        Raises:
            DataError: an input is neither, or does not fit.
        """
        return answers_to(engine, self.prompt, inputs)

    def present(self, record: Conversation) -> tuple[str, str]:
        """Return the turns before the last answer, and that answer."""
        turns = self._with_system(record.prompt)
        prompt = "\n".join(f"{turn.role}: {_said(turn)}" for turn in turns)
        answer = record.messages[len(record.prompt)]
        return _said(turns[0]) if len(turns) == 1 else prompt, _said(answer)


def _said(turn: Message) -> str:
    """What a turn says, its tool calls as JSON behind it."""
    calls = json.dumps(turn.tool_calls, ensure_ascii=False) if turn.tool_calls else ""
    return "\n".join(part for part in (turn.content, calls) if part)


def _asked(given: Any) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Return messages, and the tools on offer; both as they are read from training records."""
    if not isinstance(given, Mapping):
        return _messages(given), None
    try:
        return _messages(given.get("messages")), read_tools(given)
    except RowError as error:
        raise DataError(
            f"The input is wrong: {error}.", fix="Give tools as JSON schemas."
        ) from None


def _messages(given: Any) -> list[Message]:
    if isinstance(given, str):
        return [Message(role="user", content=given)]
    if not isinstance(given, Sequence) or not given:
        raise DataError(
            f"It is a {type(given).__name__}, neither a text nor a list of messages.",
            fix='Give a text, or messages as [{"role": "user", "content": "…"}].',
        )
    try:
        said = [Message.model_validate(message) for message in given]
        plain = [message.model_dump(exclude_none=True) for message in said]
        return read_messages(plain, "messages")
    except RowError as error:
        raise DataError(
            f"A message is wrong: {error}.", fix="Give calls of tools as OpenAI's API does."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "message"
        raise DataError(
            f"A message is wrong: {field}: {first['msg']}.",
            fix='Give messages as [{"role": "user", "content": "…"}].',
        ) from None


def _generated(name: str, description: str, assumption: str) -> Metric:
    return Metric.mean(
        name,
        f"share of the generated {description}",
        over="generated",
        generated=True,
        assumed_sd=0.2**0.5,
        assumption=assumption,
    )


def _answer_scores(output: str, reference: str, *, stopped: bool) -> dict[str, float]:
    """Statistics of one generated answer."""
    return {
        "generated": 1.0,
        "exact_match": float(output.strip() == reference.strip()),
        "rouge_l": rouge(output, reference)["rouge_l"],
        "stops_by_itself": float(stopped),
    }
