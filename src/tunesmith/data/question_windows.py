"""Lays a question and a text out in tokens: whole, or in windows that overlap.

    question, text ──QuestionLayout.lay──> Laid: what stands before each window, and the windows

They are laid out as the tokenizer lays out a pair; where it puts nothing between the two, a line
break stands there. A window without the answer points at its first token (Devlin et al., 2018,
arXiv:1810.04805). It knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunesmith.data.frame import Frame, encoded_text, text_ids
from tunesmith.data.records import QuestionedText
from tunesmith.data.windows import Window, windows
from tunesmith.errors import DataError, UnlearnableError

NO_ANSWER = (0, 0)


@dataclass(frozen=True)
class Laid:
    """A question and a text in tokens.

    Attributes:
        before, behind: what stands around each window, the question among it.
        ids: of the text.
        offsets: which characters of the text each token is made of.
        windows: of the text.
        answer: the first and last token of the first answer in the text; None where there is none.
    """

    before: list[int]
    behind: list[int]
    ids: list[int]
    offsets: list[tuple[int, int]]
    windows: list[Window]
    answer: tuple[int, int] | None

    def tokens(self, window: Window) -> tuple[int, ...]:
        """Return what the model reads of a window."""
        return (*self.before, *self.ids[window.start : window.end], *self.behind)

    def label(self, window: Window) -> tuple[int, int]:
        """Return where in the tokens of a window the answer begins and ends."""
        if self.answer is None:
            return NO_ANSWER
        first, last = self.answer
        if first < window.start or last >= window.end:
            return NO_ANSWER
        shift = len(self.before) - window.start
        return first + shift, last + shift


class QuestionLayout:
    """Lays questions and texts out for one tokenizer, which must say where its tokens stand.

    Args:
        max_length: most tokens of a question and a window.
        stride: tokens that neighbouring windows have in common; at most half a window.
    """

    def __init__(self, tokenizer: Any, max_length: int, stride: int) -> None:
        self._tokenizer, self._max_length, self._stride = tokenizer, max_length, stride
        frame = Frame.of(tokenizer)
        line_break = list(tokenizer("\n", add_special_tokens=False)["input_ids"])
        self._before, self._behind = frame.before, frame.behind
        self._middle = frame.between or line_break

    def lay(self, record: QuestionedText, *, whole: bool = False) -> Laid:
        """Lay out a question with its text in windows, or with the whole text, however long.

        Raises:
            UnlearnableError: question, text or answer has no tokens.
            DataError: the question leaves no room for the text.
        """
        question = text_ids(self._tokenizer, record.question.strip())
        encoded = encoded_text(self._tokenizer, record.text, places=True)
        ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
        if not question or not ids:
            which = "text" if question else "question"
            raise UnlearnableError(f"The {which} has no tokens.", fix="Remove the record.")
        before = [*self._before, *question, *self._middle]
        room = len(ids) if whole else self._max_length - len(before) - len(self._behind)
        if room < 1:
            raise DataError(
                f"The question has {len(question)} tokens, which leaves no room for the text in"
                f" {self._max_length}.",
                fix="Shorten it, or raise `task.max_length`.",
            )
        found = windows(len(ids), room, min(self._stride, room // 2))
        return Laid(before, self._behind, ids, offsets, found, _place(record, offsets))


def _place(record: QuestionedText, offsets: list[tuple[int, int]]) -> tuple[int, int] | None:
    if not record.answers:
        return None
    start = record.answers[0].start
    end = start + len(record.answers[0].text)
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    if not inside:
        raise UnlearnableError("The answer has no tokens.", fix="Remove the record.")
    return inside[0], inside[-1]
