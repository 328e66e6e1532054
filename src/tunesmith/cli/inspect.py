"""`tunesmith inspect`: a model taken apart, and whether it is right for a task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from tunesmith.cli.output import Json, Output, output
from tunesmith.errors import RunError

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.models.anatomy.description import Description, Stack
    from tunesmith.models.tokens import Hazard, TokenizerFacts
    from tunesmith.runs.fit import Fit
    from tunesmith.runs.inspect import Inspection

_STYLES = {"fit": "green", "fit with changes": "yellow", "unfit": "red",
           "note": "dim", "warning": "yellow", "broken": "red"}  # fmt: skip


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder (a config.json is enough), a name of the catalogue, a hub id or a "
            ".gguf file.",
            metavar="MODEL",
        ),
    ],
    task: Annotated[
        str | None, typer.Option(help="Judge the model for this task.", metavar="TASK")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Judge it for these records too; may be given several times.", metavar="FILE"
        ),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(help="Write a picture of the model.", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a model is made of, and whether it is right for a task. Loads no weights.

    Embeddings, layers, attention, feed-forward, norms, output, with the parameters and bytes of
    each, the context, and what in the tokenizer has hurt people. The configuration is enough: of a
    model that is not on this machine, only the small files are fetched.

    With a task: fit, fit with changes, or unfit, the reasons, and a better choice. With records:
    their type, language, lengths and labels as well.

    \b
    Examples:
      tunesmith inspect smollm2-135m-instruct
      tunesmith inspect Qwen/Qwen3-0.6B --svg qwen.svg
      tunesmith inspect minilm-l6 --task classification --data reviews.jsonl
    """
    with output(as_json) as out:
        from tunesmith import api
        from tunesmith.cli.contracts.inspect import InspectDocument

        found = api.inspect(model, task=task, data=data or (), console=out.console)
        out.emit(InspectDocument.model_validate(found))
        if svg is not None and found.description is not None:
            _draw(found.description, model, svg)
        if not as_json:
            _show(found, out)
        if svg is not None:
            out.line(f"Picture: {svg}")


def _draw(found: Description, name: str, file: Path) -> None:
    from tunesmith.evidence.picture import picture

    try:
        file.write_text(picture(found, name), encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"The picture cannot be written: {error.strerror}.",
            where=str(file),
            fix="Choose a folder that is there and may be written.",
        ) from error


def _show(found: Inspection, out: Output) -> None:
    say = out.result
    if found.description is not None:
        say.rich.print(_tree(found.description, found.model))
        if not found.weights:
            say.note("Its weights are not on this machine; sizes are those of its configuration.")
    if found.tokenizer is not None:
        say.note("")
        say.rich.print(_tokenizer(found.tokenizer))
    elif found.description is not None and found.description.vocab_size:
        say.note("It has no tokenizer beside its configuration.")
    for hazard in found.hazards:
        _hazard(hazard, say)
    if found.fit is not None:
        _fit(found.fit, say)


def _tree(found: Description, name: str) -> Tree:
    from tunesmith.evidence.figures import size
    from tunesmith.evidence.parts import header_words, part_words

    tree = Tree(Text(name, style="bold"), guide_style="dim")
    for words in header_words(found):
        tree.add(Text(words))
    if found.quantized_bytes:
        stored = (f"{size(bytes_)} as {kind}" for kind, bytes_ in found.quantized_bytes.items())
        tree.add(Text(f"as a frozen base: {', '.join(stored)}"))
    before = [part for part in found.parts if part.role in ("embedding", "positions")]
    after = [part for part in found.parts if part not in before]
    for part in before:
        tree.add(_line(part.role, f"{part.name}  {part_words(part)}", part.parameters, part.bytes))
    for stack in found.stacks:
        _stack(tree, stack)
    for part in after:
        tree.add(_line(part.role, f"{part.name}  {part_words(part)}", part.parameters, part.bytes))
    if found.tied and found.output:
        tree.add(_line("output", f"{found.output}  the embedding's own weights (tied)"))
    return tree


def _stack(tree: Tree, stack: Stack) -> None:
    from tunesmith.evidence.parts import (
        attention_words,
        feed_forward_words,
        layer_words,
        norm_words,
    )

    noun = "stages" if stack.role == "stages" else f"{stack.depth} layers"
    whole = tree.add(_line(stack.role, f"{stack.name}  {noun}", stack.parameters, stack.bytes))
    for kind in stack.kinds:
        branch = whole
        words = layer_words(kind, stack)
        branch = whole.add(_line(words, "each", kind.parameters, kind.bytes))
        for attention in kind.attention:
            role = "attention" if attention.role == "self" else "cross-attention"
            share = kind.attention_parameters // len(kind.attention)
            branch.add(_line(role, attention_words(attention), share))
        if kind.feed_forward is not None:
            forward = feed_forward_words(kind.feed_forward)
            branch.add(_line("feed-forward", forward, kind.feed_forward_parameters))
        if kind.norms:
            branch.add(_line("norms", norm_words(kind), kind.norm_parameters))


def _line(name: str, words: str, parameters: int | None = None, size: int | None = None) -> Text:
    from tunesmith.evidence import figures

    text = Text.assemble((name, "bold cyan"), "  ", words.strip())
    if parameters is not None:
        counted = figures.many(parameters)
        if size is not None and size >= 2**20:
            counted += f" parameters, {figures.size(size)}"
        text.append(f"  {counted}", style="dim")
    return text


def _tokenizer(found: TokenizerFacts) -> Tree:
    kind = f"{found.algorithm}{', of bytes' if found.byte_level else ''}"
    tree = Tree(Text.assemble(("tokenizer", "bold"), f"  {kind}, {found.size:,} tokens"),
                guide_style="dim")  # fmt: skip
    for name, words in _facts(found):
        tree.add(Text.assemble((name, "bold cyan"), "  ", words))
    return tree


def _facts(found: TokenizerFacts) -> Iterator[tuple[str, str]]:
    yield "special", ", ".join(f"{t.role} {t.text} ({t.id})" for t in found.special) or "none"
    yield "around a text", found.adds or "nothing"
    yield "chat template", "yes" if found.chat_template else "none"
    if found.longest is not None:
        yield "longest text", f"{found.longest:,} tokens"


def _hazard(hazard: Hazard, say: Console) -> None:
    style = _STYLES[hazard.level]
    say.rich.print(
        Text.assemble((f"{hazard.level}: ", style), hazard.what, " ", (hazard.fix, "dim")),
        soft_wrap=not say.rich.is_terminal,
    )


def _fit(found: Fit, say: Console) -> None:
    say.note("")
    say.rich.print(
        Text.assemble(
            (found.verdict.capitalize(), f"bold {_STYLES[found.verdict]}"), f" for {found.task}."
        )
    )
    for reason in found.reasons:
        text = Text.assemble("  ", (f"{reason.aspect}: ", _STYLES[reason.verdict]), reason.what)
        if reason.change and reason.change != found.better:
            text.append(f" {reason.change}", style="dim")
        say.rich.print(text, soft_wrap=not say.rich.is_terminal)
    if found.better:
        say.rich.print(Text(f"Better: {found.better}"), soft_wrap=not say.rich.is_terminal)
