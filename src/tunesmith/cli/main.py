"""The command line's entry: the commands, and the one place where an error becomes an exit code.

    tunesmith COMMAND … ──main──> output, exit code (`failure.EXIT_CODES`)

Nothing here loads torch; a command imports what it needs when it runs.
"""

from __future__ import annotations

import gc
import inspect
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console as RichConsole
from rich.text import Text

import tunesmith
from tunesmith.cli import (
    bench,
    chat,
    check,
    clean,
    evaluate,
    failure,
    init,
    models,
    plan,
    predict,
    recipe,
    report,
    train,
)
from tunesmith.cli import inspect as inspect_command
from tunesmith.console import stdout_line

PROGRAM = "tunesmith"

# The base of every error of the command line itself; typer has its own copy of click, or click's.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name=PROGRAM,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        stdout_line(f"{PROGRAM} {tunesmith.__version__}")
        raise typer.Exit


@app.callback()
def tunesmith_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Fine-tune a language model for a task of your own, and prove that it got better.

    A recipe goes in, a model with evidence comes out: every run measures the model before and after
    on records that it did not learn from, and says whether the difference is more than chance.

    \b
    A first run:
      tunesmith init my-task          a folder with a recipe and sample data
      tunesmith check my-task/recipe.yaml
      tunesmith train my-task/recipe.yaml
      tunesmith chat my-task-1

    \b
    Exit codes: 0 done, 1 failed while running, 2 wrong input, 130 interrupted.
    """


app.command(name="init")(init.init)
app.add_typer(models.app, name="models")
app.command(name="inspect")(inspect_command.inspect)
app.command(name="check")(check.check)
app.command(name="clean")(clean.clean)
app.command(name="plan")(plan.plan)
app.command(name="train")(train.train)
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="predict")(predict.predict)
app.command(name="chat")(chat.chat)
app.command(name="report")(report.report)
app.add_typer(recipe.app, name="recipe")
app.add_typer(bench.app, name="bench")


def build() -> Any:
    """Return the command tree, its help laid out in whole paragraphs."""
    tree = typer.main.get_command(app)
    _lay_out_help(tree)
    return tree


def _lay_out_help(command: Any) -> None:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(
        text if text.startswith("\b") else " ".join(text.split("\n")) for text in paragraphs
    )
    for inner in getattr(command, "commands", {}).values():
        _lay_out_help(inner)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; says on standard error what went wrong."""
    command = build()
    try:
        with command.make_context(PROGRAM, list(arguments) or ["--help"]) as context:
            command.invoke(context)
        return 0
    except typer.Exit as leaving:
        return leaving.exit_code
    except BrokenPipeError:
        _let_go_of_standard_output()
        return 1
    except typer.Abort:
        return _fail(failure.explain(KeyboardInterrupt()), arguments)
    except _UsageError as error:
        return _fail(_of_usage(error), arguments)
    except (Exception, KeyboardInterrupt) as error:
        return _fail(failure.explain(error), arguments)


def main() -> None:
    """The entry point of the console script."""
    if "_TUNESMITH_COMPLETE" in os.environ:
        app()  # the shell asks for completions
    _quieten()
    code = run(sys.argv[1:])
    gc.freeze()  # else all that torch is made of is looked through for garbage before it is dropped
    sys.exit(code)


def _quieten() -> None:
    """Keep torchao from saying, wherever it is installed, which parts of it are for other machines.

    transformers imports it, whatever the command is.
    """
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _of_usage(error: Exception) -> failure.Failure:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else PROGRAM
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return failure.Failure(message, None, f"See `{command} --help`.", 2)


def _fail(failed: failure.Failure, arguments: Sequence[str]) -> int:
    said = False
    try:
        if "--json" in arguments:
            _print_document(failed)
            said = True
        sys.stdout.flush()
    except OSError:
        _let_go_of_standard_output()
    if not said:
        text = Text.assemble(("error: ", "bold red"), str(failed))
        RichConsole(stderr=True, highlight=False).print(text, soft_wrap=True)
    return failed.exit_code


def _print_document(failed: failure.Failure) -> None:
    from tunesmith.cli.contracts.document import ErrorDetails, ErrorDocument

    document = ErrorDocument(
        error=ErrorDetails(what=failed.what, where=failed.where, fix=failed.fix),
        exit_code=failed.exit_code,
    )
    stdout_line(document.model_dump_json(indent=2))


def _let_go_of_standard_output() -> None:
    """Point standard output elsewhere, so that the interpreter's last flush cannot fail too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
