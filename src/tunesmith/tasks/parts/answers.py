"""What a model writes by itself: prompts of inputs, and the likeliest text behind each.

    inputs ──prompts_of──> Prompt … ──answer_prompts──> (text, whether it ended by itself) …
    inputs ──answers_to──> Prediction …

It knows no task: how an input becomes a prompt is told to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DataError
from tunesmith.tasks.base import Prediction, Prompt

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.engine.engine import Engine


def answer_prompts(
    engine: Engine, prompts: Sequence[Prompt], *, console: Console, beams: int = 1
) -> list[tuple[str, bool]]:
    """Continue each prompt; return the likeliest text, and whether it ended by itself.

    A text that did not end stopped at `max_new_tokens`.

    Args:
        beams: beginnings that are pursued side by side; 1: always the most likely token.
    """
    from tunesmith.engine.generation import Sampling

    found: list[tuple[str, bool]] = [("", False)] * len(prompts)
    alike: dict[Sampling, list[int]] = {}
    for index, prompt in enumerate(prompts):
        sampling = Sampling(prompt.max_new_tokens, prompt.stop_ids, beams=beams)
        alike.setdefault(sampling, []).append(index)
    with console.progress("generate", len(prompts)) as bar:
        for sampling, members in alike.items():
            ids = [prompts[i].ids for i in members]
            answers = engine.generate(ids, sampling, ended=bar.advance)
            for index, answer in zip(members, answers, strict=True):
                text = engine.model.tokenizer.decode(answer.ids, skip_special_tokens=True)
                found[index] = text, answer.stopped
    return found


def answers_to(
    engine: Engine, make: Callable[[Any], Prompt], inputs: Sequence[Any], *, beams: int = 1
) -> list[Prediction]:
    """Answer inputs of a user with the likeliest text behind the prompt that `make` makes of each.

    Raises:
        DataError: of the first input that cannot be one, with its number.
    """
    from tunesmith.console import Console

    quiet = Console(quiet=True)
    answers = answer_prompts(engine, prompts_of(make, inputs), console=quiet, beams=beams)
    return [Prediction(text) for text, _ in answers]


def prompts_of(make: Callable[[Any], Prompt], inputs: Sequence[Any]) -> list[Prompt]:
    """Make the prompt of each input.

    Raises:
        DataError: of the first input that cannot be one, with its number.
    """
    prompts = []
    for number, given in enumerate(inputs, start=1):
        try:
            prompts.append(make(given))
        except DataError as error:
            raise DataError(error.what, where=f"input {number}", fix=error.fix) from None
    return prompts


def check_room(prompt: Prompt, context_length: int) -> None:
    """Check that a prompt and its answer fit into the model's context.

    Raises:
        DataError: they do not.
    """
    if len(prompt.ids) + prompt.max_new_tokens > context_length:
        raise DataError(
            f"The prompt has {len(prompt.ids)} tokens; with {prompt.max_new_tokens} for the answer"
            f" that is more than the model's context of {context_length}.",
            fix="Shorten it, or lower `task.max_new_tokens`.",
        )
