"""Seq2seq: read a text, write another from it: its translation, its summary.

    TextPair ──encode──> source and target, learnt on the target ──> log-likelihood of the target
             ──prompt──> the source, as it is read ──generate──> BLEU, chrF, ROUGE

Encoder-decoders read the source apart and write the target from the token that their decoder starts
with; decoders get both as a question and its answer, in their chat template. Teacher forcing
measures how likely the right target is, on every record; real generation measures what the model
writes by itself, on the first few.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.data.records import Message, TextPair
from tunesmith.errors import DataError, RecipeError, UnlearnableError
from tunesmith.registry import TASKS
from tunesmith.scores.translations import (
    BLEU_SUMS,
    CHRF_SUMS,
    Words,
    bleu,
    bleu_counts,
    chrf,
    chrf_counts,
    rouge,
)
from tunesmith.tasks.base import ExampleScore, Metric, Prediction, Prompt, Task
from tunesmith.tasks.parts.answers import answer_prompts, answers_to
from tunesmith.tasks.parts.serving import check_asked
from tunesmith.tasks.parts.tokens import token_metrics, token_scores

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.data.chat import ChatEncoder
    from tunesmith.data.pair_encoder import PairEncoder, PromptEncoder
    from tunesmith.engine.engine import Engine
    from tunesmith.models.model import Model

_SD = 0.25


@TASKS.register("seq2seq")
class Seq2Seq(Task):
    """A text in, another text out: a translation, a summary."""

    Record = TextPair
    head = "seq2seq_lm"
    kinds = frozenset({"decoder", "encoder-decoder"})
    objective = "token_likelihood"
    primary = "log_likelihood"

    class Options(BaseModel):
        """How texts are read, and how their targets are generated."""

        model_config = ConfigDict(extra="forbid")

        prefix: str = Field(
            default="",
            description="text that is put before every source, such as `translate English to "
            "German: `, which T5 was taught to read",
        )
        max_source_length: int | None = Field(
            default=None,
            ge=2,
            description="most tokens of a source, with what stands around it; by default the "
            "model's context",
        )
        max_target_length: int | None = Field(
            default=None,
            ge=2,
            description="most tokens of a target; by default the model's context",
        )
        source_language: str | None = Field(
            default=None,
            description="code of the source's language, for multilingual models (`en_XX`)",
        )
        target_language: str | None = Field(
            default=None,
            description="code of the target's language, for multilingual models; every target then "
            "begins with its token",
        )
        max_new_tokens: int = Field(
            default=128, ge=1, description="most tokens of a target that is generated"
        )
        beams: int = Field(
            default=1,
            ge=1,
            le=64,
            description="beginnings that are pursued side by side when a target is generated; 1: "
            "always the most likely token",
        )
        bleu_words: Words = Field(
            default="13a",
            description="how BLEU cuts texts into words, as sacreBLEU calls it: `13a` and `intl` "
            "at spaces and punctuation, `zh` Chinese, `char` characters",
        )

    _today: date | None = None

    def head_for(self, kind: str) -> str:
        """An encoder-decoder's own head, or that of a decoder."""
        return "causal_lm" if kind == "decoder" else self.head

    def state(self) -> dict[str, Any]:
        """Return the date that was written, where a chat template writes it."""
        return {} if self._today is None else {"date": self._today.isoformat()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back the date, so that what is read is what was learnt from."""
        self._today = date.fromisoformat(state["date"]) if "date" in state else None

    def bind(self, model: Model) -> None:
        """Take the tokenizer, the context length, and how the model's decoder starts.

        What an encoder-decoder is to begin and end with is written into its generation settings, so
        that whoever loads the result generates as it was measured.

        Raises:
            RecipeError: the tokenizer is not told languages, or knows no such language.
            ModelError: the chat template of a decoder cannot be learnt with.
        """
        from tunesmith.data.pair_encoder import Limits, PairEncoder

        context = model.anatomy.context_length
        source, target = (
            min(length or context, context)
            for length in (self.options.max_source_length, self.options.max_target_length)
        )
        self._limits, self._tokenizer = Limits(source, target, context), model.tokenizer
        languages = (self.options.source_language, self.options.target_language)
        self._encoder: PairEncoder | PromptEncoder
        self._settings: tuple[str, ...] = ()
        if model.anatomy.encoder is None:
            self._encoder = self._prompted(model, languages)
            return
        encoder = PairEncoder(model.tokenizer, _starting(model.module), self._limits, languages)
        self._encoder = encoder
        self._settings = _settle(model.module, encoder, self.options)

    def _prompted(self, model: Model, languages: tuple[str | None, ...]) -> PromptEncoder:
        from tunesmith.data.pair_encoder import PromptEncoder

        if any(languages):
            raise RecipeError(
                f"{model.source.name} is a decoder: it is told languages in words.",
                where="task.target_language" if languages[1] else "task.source_language",
                fix="Leave it out, and say the languages in task.prefix.",
            )
        encoder = PromptEncoder(model.tokenizer, self._limits, self._today)
        longest = min(self.options.max_new_tokens, self._limits.target)
        try:
            encoder.prompt("a", longest)
        except UnlearnableError:
            raise RecipeError(
                f"Targets of up to {longest} tokens leave no room for a source in the model's"
                f" context of {self._limits.context}.",
                where="task.max_new_tokens",
                fix="Lower it.",
            ) from None
        self._today = encoder.chat.today if encoder.chat.facts.dated else None
        return encoder

    def remarks(self) -> list[str]:
        """Return what a chat template does, or which settings of the model's own hold."""
        chat = self._chat()
        if chat is not None:
            return chat.facts.sentences()
        if not self._settings:
            return []
        return [f"The model's own generation settings hold: {', '.join(self._settings)}."]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a target."""
        return self._encoder.stop_ids

    @property
    def chat_template(self) -> str | None:
        """The template that a decoder is asked with."""
        chat = self._chat()
        return None if chat is None else chat.template

    def lookalikes(self, record: TextPair) -> Collection[str]:
        """Return the texts of control tokens that are said to a decoder."""
        chat = self._chat()
        return () if chat is None else chat.lookalikes(self._turns(record))

    def check_saved(self, folder: Path, records: Sequence[TextPair]) -> None:
        """Check that the saved chat template of a decoder writes each prompt as it was learnt.

        Raises:
            RunError: it does not.
        """
        chat = self._chat()
        if chat is not None:
            turns = (self._turns(record) for record in records)
            check_asked(folder, chat, ((asked[:1], asked, None) for asked in turns))

    def _chat(self) -> ChatEncoder | None:
        from tunesmith.data.pair_encoder import PromptEncoder

        return self._encoder.chat if isinstance(self._encoder, PromptEncoder) else None

    def _turns(self, record: TextPair) -> list[Message]:
        return [
            Message(role="user", content=self._source(record)),
            Message(role="assistant", content=record.target),
        ]

    def encode(self, record: TextPair) -> Encoded:
        """Encode a pair; the target and its end are learnt.

        Raises:
            DataError: a decoder's chat template does not accept it.
            UnlearnableError: one of the two texts has no tokens, or finds no room.
        """
        from tunesmith.data.batch import Encoded

        streams, cut = self._encoder.encode(self._source(record), record.target)
        return Encoded(streams, cut=cut)

    def _source(self, record: TextPair) -> str:
        return f"{self.options.prefix}{record.source}"

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Log-likelihood and perplexity by teacher forcing; the others by real generation."""
        said = {
            "rouge_1": "words in common of generated and right target (ROUGE-1 F1)",
            "rouge_2": "pairs of words in common (ROUGE-2 F1)",
            "rouge_l": "how much of the two is one common sequence of words (ROUGE-L F1)",
        }
        found = [
            *token_metrics(),
            Metric(
                "bleu", BLEU_SUMS, bleu,
                "runs of up to four words in common, over all targets (sacreBLEU, 0 to 100)",
                generated=True,
            ),
            Metric(
                "chrf", CHRF_SUMS, chrf,
                "runs of up to six characters in common, over all targets (chrF2, 0 to 100)",
                generated=True,
            ),
            *(Metric.mean(
                name, text, over="generated", generated=True, assumed_sd=_SD,
                assumption=f"targets' changes differ by {_SD:g} (standard deviation)",
            ) for name, text in said.items()),
            _share("exact_match", "are the right ones", "between right and wrong"),
            _share("stops_by_itself", "end by themselves", "in this"),
        ]  # fmt: skip
        return {metric.name: metric for metric in found}

    def measure(
        self,
        engine: Engine,
        records: Sequence[TextPair],
        examples: Sequence[Encoded],
        *,
        generate: int,
        console: Console,
        tokens_per_batch: int = 4096,
    ) -> list[ExampleScore]:
        """Score every record by teacher forcing, the first `generate` by real generation too."""
        rows = token_scores(engine, examples, tokens_per_batch=tokens_per_batch, console=console)
        few = records[:generate]
        prompts = [self._prompt(self._source(record)) for record in few]
        written = answer_prompts(engine, prompts, console=console, beams=self.options.beams)
        for row, record, (text, stopped) in zip(rows, few, written, strict=False):
            row |= self._scores(text, record.target, stopped=stopped)
        outputs = [text for text, _ in written]
        return [
            ExampleScore(index, row, outputs[index] if index < len(outputs) else None)
            for index, row in enumerate(rows)
        ]

    def _scores(self, said: str, right: str, *, stopped: bool) -> dict[str, float]:
        """Statistics of one generated target."""
        said, right = said.strip(), right.strip()
        return {
            "generated": 1.0,
            **bleu_counts(said, right, self.options.bleu_words),
            **chrf_counts(said, right),
            **rouge(said, right),
            "exact_match": float(said == right),
            "stops_by_itself": float(stopped),
        }

    def _prompt(self, source: str) -> Prompt:
        longest = min(self.options.max_new_tokens, self._limits.target)
        return Prompt(self._encoder.prompt(source, longest), self.stop_ids, longest)

    def prompt(self, given: Any) -> Prompt:
        """Return what the target of a source starts from.

        Args:
            given: a text, or a list with one message of a user.

        Raises:
            DataError: it is neither, or says nothing.
        """
        if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 1:
            [turn] = given
            given = turn.get("content") if isinstance(turn, Mapping) else turn
        if not isinstance(given, str) or not given.strip():
            raise DataError("It is no text to write another from.", fix="Give one text.")
        return self._prompt(f"{self.options.prefix}{given}")

    def predict(self, engine: Engine, inputs: Sequence[Any]) -> list[Prediction]:
        """Write the target of each text.

        Raises:
            DataError: an input is no text.
        """
        return answers_to(engine, self.prompt, inputs, beams=self.options.beams)

    def present(self, record: TextPair) -> tuple[str, str]:
        """Return the source as it is read, and the right target."""
        return self._source(record), record.target


def _starting(module: Any) -> Callable[[Sequence[int]], int]:
    """Return what gives the token with which the decoder of `module` starts, by its own shifting.

    It may depend on what is written: mBART's decoder starts with the target's language.
    """

    def start(written: Sequence[int]) -> int:
        import torch

        shift = getattr(module, "prepare_decoder_input_ids_from_labels", None)
        if shift is None:
            return int(module.config.decoder_start_token_id)
        return int(shift(labels=torch.tensor([list(written)]))[0, 0])

    return start


def _settle(module: Any, encoder: PairEncoder, options: Any) -> tuple[str, ...]:
    """Write into a model's generation settings what was asked for; return those of its own left."""
    settings = getattr(module, "generation_config", None)
    if settings is None:  # a bare body, of which only the shape is known
        return ()
    settings.decoder_start_token_id = encoder.start
    settings.num_beams = options.beams
    if options.beams == 1:  # these speak of beams, and without them no such settings can be saved
        plain = type(settings)()
        settings.early_stopping, settings.length_penalty = (
            plain.early_stopping,
            plain.length_penalty,
        )
    settings.max_new_tokens, settings.max_length = options.max_new_tokens, None
    if encoder.first is not None:
        settings.forced_bos_token_id = encoder.first
    own = settings.to_diff_dict()
    return tuple(f"{name} {own[name]}" for name in _OWN if own.get(name) is not None)


_OWN = ("min_length", "min_new_tokens", "no_repeat_ngram_size", "length_penalty",
        "repetition_penalty", "early_stopping", "bad_words_ids")  # fmt: skip
"""Settings that change what is generated, and that a recipe does not have."""


def _share(name: str, description: str, changes: str) -> Metric:
    return Metric.mean(
        name,
        f"share of the generated targets that {description}",
        over="generated",
        generated=True,
        assumed_sd=0.2**0.5,
        assumption=f"20% of the generated targets change {changes}",
    )
