"""What the commands of `models` print: the catalogue, and where a model is."""

from __future__ import annotations

from pydantic import Field

from tunesmith.cli.contracts.document import Details, Document


class ModelDetails(Details):
    """An entry of the catalogue."""

    name: str = Field(description="the name to write in a recipe")
    hub: str | None = Field(description="its id on the hub")
    kind: str = Field(description="decoder, encoder or encoder-decoder")
    parameters: int | None = Field(description="parameters; null where unknown")
    context: int | None = Field(description="longest input in tokens; null where unknown")
    licence: str = Field(description="licence of the weights")
    gated: bool | None = Field(description="whether the hub asks to accept terms first")
    source: str = Field(description="where these facts come from")
    where: str = Field(
        description="hub-cache or pulled where it is on this machine; else package or hub, from "
        "where it would be fetched"
    )


class ModelsDocument(Document):
    """`tunesmith models list --json`."""

    models: list[ModelDetails] = Field(description="all entries")


class PlaceDocument(Document):
    """`tunesmith models pull NAME --json` and `tunesmith models where NAME --json`."""

    name: str = Field(description="what was asked for")
    path: str = Field(description="folder of its files")
    origin: str = Field(description="folder, gguf, hub-cache, pulled or hub")
    fingerprint: str = Field(description="SHA-256 of the weights")
    revision: str | None = Field(description="commit or package version")
