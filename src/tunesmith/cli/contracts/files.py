"""What the commands print that write or show one thing: `init`, `report` and `recipe`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tunesmith.cli.contracts.document import Document


class InitDocument(Document):
    """`tunesmith init --json`."""

    folder: str = Field(description="the folder that was made")
    files: list[str] = Field(description="the files in it")
    next: list[str] = Field(description="commands to go on with")


class ReportDocument(Document):
    """`tunesmith report --json`."""

    run: str = Field(description="path of the run directory")
    report: str = Field(description="path of the report")


class RecipeDocument(Document):
    """`tunesmith recipe show --json`."""

    recipe: dict[str, Any] = Field(description="the recipe with every default")


class RecipeSchemaDocument(Document):
    """`tunesmith recipe schema --json`; without `--json` the schema stands alone."""

    recipe_schema: dict[str, Any] = Field(description="JSON schema of a recipe")
