"""Encodes a source and its target: for an encoder-decoder as two texts, for a decoder as a prompt.

    source, target ──PairEncoder──> streams `source`, `target`      the target's tokens are learnt
    source, target ──PromptEncoder──> stream `text`                 likewise, behind the source

Both say what generation reads (`prompt`) and on which tokens it stops. A source that is too long is
cut at its end; a target, too, and then nothing learns to stop there. Look-alikes of special tokens
stay plain text. Nothing here knows records, files or models: of a model comes the function that
gives the token with which its decoder starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from tunesmith.data.batch import Cut, EncodedStream
from tunesmith.data.chat import ChatEncoder
from tunesmith.data.frame import around, text_ids
from tunesmith.data.records import Message
from tunesmith.errors import RecipeError, UnlearnableError

Streams = Mapping[str, EncodedStream]


@dataclass(frozen=True)
class Limits:
    """The most tokens of a source and of a target, with what stands around them; and of both in one
    context, where they share it."""

    source: int
    target: int
    context: int


class PairEncoder:
    """Encodes pairs for an encoder-decoder, each side as the tokenizer does it.

    Args:
        tokenizer: of transformers; it may have a vocabulary for each side.
        start: gives the token that a decoder starts with, for the tokens that it is to write.
        languages: of source and target, where the tokenizer wants to know them.

    Attributes:
        start: that token.
        first: the token that every target begins with, as the target's language asks for it.
        stop_ids: tokens that end a target.

    Raises:
        RecipeError: the tokenizer knows no languages, or not this one; or the limits leave no room.
    """

    def __init__(
        self,
        tokenizer: Any,
        start: Callable[[Sequence[int]], int],
        limits: Limits,
        languages: tuple[str | None, str | None] = (None, None),
    ) -> None:
        self._tokenizer, self._limits = tokenizer, limits
        _set_languages(tokenizer, languages)
        self._around_source = around(tokenizer)
        self._around_target = around(tokenizer, target=True)
        before, behind = self._around_target
        self.start = start([*before, *text_ids(tokenizer, "a", target=True), *behind])
        self.first = before[0] if languages[1] is not None and before else None
        self.stop_ids: tuple[int, ...] = (tokenizer.eos_token_id,)
        if languages[1] is not None and tokenizer.unk_token_id in (*before, *behind, self.start):
            raise _no_language(languages[1], "task.target_language")

    def encode(self, source: str, target: str) -> tuple[Streams, Cut | None]:
        """Encode a pair; say what was cut.

        Raises:
            UnlearnableError: one of the two has no tokens.
        """
        read, lost = self._source(source)
        ids = text_ids(self._tokenizer, target, target=True)
        if not ids:
            raise UnlearnableError("The target has no tokens.", fix="Remove the record.")
        before, behind = self._around_target
        room = max(1, self._limits.target - 1 - len(before) - len(behind))
        unlearnt = max(0, len(ids) - room)
        written = [*before, *ids[:room], *(behind if not unlearnt else ())]
        streams = {
            "source": EncodedStream(tuple(read)),
            "target": EncodedStream((self.start, *written), (0.0, *[1.0] * len(written))),
        }
        cut = Cut("end", lost + unlearnt, unlearnt) if lost or unlearnt else None
        return streams, cut

    def prompt(self, source: str, new_tokens: int) -> list[int]:
        """Return what is read before a target is written.

        Raises:
            UnlearnableError: the source has no tokens.
        """
        return self._source(source)[0]

    def _source(self, source: str) -> tuple[list[int], int]:
        ids = text_ids(self._tokenizer, source)
        if not ids:
            raise UnlearnableError("The source has no tokens.", fix="Remove the record.")
        before, behind = self._around_source
        room = max(1, self._limits.source - len(before) - len(behind))
        return [*before, *ids[:room], *behind], max(0, len(ids) - room)


class PromptEncoder:
    """Encodes pairs for a decoder, as a question and its answer in the model's chat template.

    Args:
        tokenizer: of transformers, a fast one.
        today: the date that a template which writes it is told.

    Attributes:
        chat: what lays them out.
        stop_ids: tokens that end a target.

    Raises:
        ModelError: the template or the tokenizer cannot be learnt with.
    """

    def __init__(self, tokenizer: Any, limits: Limits, today: date | None = None) -> None:
        self._tokenizer, self._limits = tokenizer, limits
        self.chat = ChatEncoder(tokenizer, today=today)
        self.stop_ids = self.chat.stop_ids

    def encode(self, source: str, target: str) -> tuple[Streams, Cut | None]:
        """Encode a pair; say what was cut.

        Raises:
            DataError: the chat template does not accept it.
            UnlearnableError: the target leaves no room for the source.
        """
        whole = self._laid(source, target)
        written = min(whole.trained(), self._limits.target)
        kept, lost = self._fitting(source, written)
        stream = whole if kept == source else self._laid(kept, target)
        unlearnt = stream.trained() - written
        if unlearnt > 0:
            assert stream.weights is not None
            end = len(stream.ids) - unlearnt
            stream = EncodedStream(stream.ids[:end], stream.weights[:end])
        cut = Cut("end", lost + unlearnt, unlearnt) if lost or unlearnt else None
        return {"text": stream}, cut

    def prompt(self, source: str, new_tokens: int) -> list[int]:
        """Return what is read before a target of so many tokens is written."""
        return self._prompt(self._fitting(source, new_tokens)[0])

    def _laid(self, source: str, target: str) -> EncodedStream:
        turns = [Message(role="user", content=source), Message(role="assistant", content=target)]
        return self.chat.encode(turns)

    def _prompt(self, source: str) -> list[int]:
        return self.chat.prompt_ids([Message(role="user", content=source)])

    def _fitting(self, source: str, written: int) -> tuple[str, int]:
        """Cut a source at its end so that its prompt fits; return it, and how many tokens were cut.

        Raises:
            UnlearnableError: nothing of it fits.
        """
        limit = min(self._limits.source, self._limits.context - written)
        offsets: list[tuple[int, int]] = self._tokenizer(
            source, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        kept, text = len(offsets), source
        while (over := len(self._prompt(text)) - limit) > 0:
            kept -= over
            if kept < 1:
                raise UnlearnableError(
                    f"{limit} tokens leave no room for the source beside what the chat template"
                    f" puts around it and {written} tokens of the target.",
                    fix="Raise `task.max_source_length`, or lower `task.max_target_length`.",
                )
            text = source[: offsets[kept - 1][1]]
        return text, len(offsets) - kept


def _set_languages(tokenizer: Any, languages: tuple[str | None, str | None]) -> None:
    for side, language in zip(("source", "target"), languages, strict=True):
        if language is None:
            continue
        name = "src_lang" if side == "source" else "tgt_lang"
        if not hasattr(tokenizer, name):
            raise RecipeError(
                "The model's tokenizer is not told languages.",
                where=f"task.{side}_language",
                fix="Leave it out; where the model wants them in words, write task.prefix.",
            )
        try:
            setattr(tokenizer, name, language)
        except Exception as error:  # tokenizers complain of unknown codes with whatever they like
            raise _no_language(language, f"task.{side}_language") from error


def _no_language(language: str, where: str) -> RecipeError:
    return RecipeError(
        f"The model's tokenizer knows no language {language!r}.",
        where=where,
        fix="Write the code as the model's card does, such as de_DE or deu_Latn.",
    )
