"""`tunesmith chat`: talk with a run's model, with its base, or with both side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tunesmith.cli.output import AsMember, Json, Output, RunArgument, RunsDir, output

if TYPE_CHECKING:
    from tunesmith.runs.run import Run

Who = Literal["tuned", "base"]
Messages = list[dict[str, str]]

_TITLES: dict[Who, str] = {"tuned": "fine-tuned", "base": "base"}


def chat(
    run: RunArgument,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the base model's answer beside it.")
    ] = False,
    base: Annotated[bool, typer.Option("--base", help="Talk with the base model only.")] = False,
    system: Annotated[
        str | None, typer.Option(help="A system prompt to begin with.", metavar="TEXT")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0: always the most likely token.", metavar="NUMBER")
    ] = 0.0,
    member: AsMember = None,
    runs_dir: RunsDir = "runs",
    as_json: Json = False,
) -> None:
    """Talk with a run's model; the answer appears as it is generated.

    Ctrl-C stops an answer, /reset forgets the conversation, /exit or Ctrl-D leaves. From a pipe,
    each line is a turn.

    \b
    Examples:
      tunesmith chat my-task-1
      tunesmith chat my-task-1 --compare
      echo "What is a recipe?" | tunesmith chat my-task-1 --json
    """
    if compare and base:
        raise typer.BadParameter("Give one of --compare and --base.", param_hint="--base")
    who: tuple[Who, ...] = ("base", "tuned") if compare else ("base",) if base else ("tuned",)
    with output(as_json) as out:
        from tunesmith import api
        from tunesmith.cli.contracts.answers import ChatDocument, TurnDetails

        opened = api.open_run(run, runs_dir=runs_dir).of(member)
        conversation = _Conversation(opened, who, system, temperature)
        turns = [
            TurnDetails(
                user=text,
                tuned=(said := conversation.answer(text, out)).get("tuned"),
                base=said.get("base"),
            )
            for text in _user_turns(conversation)
        ]
        out.emit(ChatDocument(run=str(opened.path), turns=turns))


class _Conversation:
    """What was said so far, with each of the models that take part."""

    def __init__(self, run: Run, who: tuple[Who, ...], system: str | None, temperature: float):
        self._run = run
        self._system = system
        self._temperature = temperature
        self._who = who
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        begin: Messages = [{"role": "system", "content": self._system}] if self._system else []
        self._messages: dict[Who, Messages] = {who: list(begin) for who in self._who}

    def answer(self, text: str, out: Output) -> dict[Who, str]:
        """Let each model answer `text`, showing the answers as they come."""
        for messages in self._messages.values():
            messages.append({"role": "user", "content": text})
        if out.as_json:
            said = {who: "".join(self._stream(who)) for who in self._who}
        elif len(self._who) > 1 and out.result.rich.is_terminal:
            said = self._side_by_side(out)
        else:
            said = {who: self._one_by_one(who, out) for who in self._who}
        for who, messages in self._messages.items():
            messages.append({"role": "assistant", "content": said[who]})
        return said

    def _stream(self, who: Who) -> Iterator[str]:
        return self._run.stream(list(self._messages[who]), who=who, temperature=self._temperature)

    def _one_by_one(self, who: Who, out: Output) -> str:
        if len(self._who) > 1:
            out.line(f"[{_TITLES[who]}]")
        said = ""
        try:
            for piece in self._stream(who):
                said += piece
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            out.console.note("(stopped)")
        out.line("")
        return said

    def _side_by_side(self, out: Output) -> dict[Who, str]:
        said: dict[Who, str] = dict.fromkeys(self._who, "")
        with Live(console=out.result.rich, auto_refresh=False) as live:
            live.update(_panes(said), refresh=True)
            try:
                for who in self._who:
                    for piece in self._stream(who):
                        said[who] += piece
                        live.update(_panes(said), refresh=True)
            except KeyboardInterrupt:
                out.console.note("(stopped)")
        return said


def _panes(said: dict[Who, str]) -> Table:
    table = Table.grid(expand=True)
    for _ in said:
        table.add_column(ratio=1)
    table.add_row(*(Panel(Text(text), title=_TITLES[who]) for who, text in said.items()))
    return table


def _user_turns(conversation: _Conversation) -> Iterator[str]:
    """Yield what the user says, until they leave."""
    while True:
        try:
            text = _ask()
        except (EOFError, KeyboardInterrupt):
            return
        match text.strip():
            case "":
                continue
            case "/exit" | "/quit":
                return
            case "/reset":
                conversation.reset()
            case _:
                yield text


def _ask() -> str:
    if sys.stdin.isatty():
        import readline  # noqa: F401  # gives input() its line editing and history

        return input("you> ")
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")
