"""Whether a saved model will be asked as it was taught.

    saved tokenizer with its chat template, conversations ──check_asked──> nothing, or a RunError

The template is read from disk again and run as servers run it that know nothing else. What it
writes for a prompt has to be, token by token, that behind which the answer was learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.data.records import Message
from tunesmith.data.rendering import TemplateRefusalError, Tools
from tunesmith.errors import RunError

if TYPE_CHECKING:
    from tunesmith.data.chat import ChatEncoder

Asked = tuple[Sequence[Message], Sequence[Message], Tools]
"""A prompt, the same with its answer, and the tools on offer."""

_FIX = "Report this with the recipe; what was learnt is whole in the checkpoints of the run."


def check_asked(folder: Path, chat: ChatEncoder, conversations: Iterable[Asked]) -> None:
    """Check it on some conversations.

    Those that say the text of a control token are passed over: most servers make the token of it.

    Args:
        folder: holds the saved tokenizer.
        chat: what the conversations were learnt with.

    Raises:
        RunError: the saved template is another, or writes another prompt.
    """
    from transformers import AutoTokenizer

    from tunesmith.models.quiet import quiet

    with quiet():
        saved = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if _read_back(saved.chat_template) != _read_back(chat.template):
        raise RunError(
            "The saved chat template is not the one that was learnt with.",
            where=str(folder),
            fix=_FIX,
        )
    for number, (prompt, whole, tools) in enumerate(conversations, start=1):
        if not prompt or chat.lookalikes(prompt, tools):
            continue
        learnt = chat.encode(whole, tools).ids
        try:
            served = chat.served_ids(saved, prompt, tools)
        except TemplateRefusalError as error:
            raise _otherwise(folder, number, f"is refused ({error})") from error
        if tuple(served) == learnt[: len(served)]:
            continue
        pairs = zip(served, learnt, strict=False)
        same = next((i for i, (one, other) in enumerate(pairs) if one != other), len(learnt))
        here, there = (saved.decode(ids[same : same + 4]) for ids in (learnt, served))
        raise _otherwise(
            folder, number, f"goes on with {there!r} at token {same + 1}, where {here!r} was learnt"
        )


def _read_back(template: str | None) -> str | None:
    """Return a template with the line ends of a file that was read; Jinja takes them for equal."""
    return None if template is None else template.replace("\r\n", "\n").replace("\r", "\n")


def _otherwise(folder: Path, number: int, how: str) -> RunError:
    return RunError(
        "The saved model would be asked otherwise than it was taught: as its tokenizer writes it,"
        f" the prompt of test record {number} {how}.",
        where=str(folder),
        fix=_FIX,
    )
