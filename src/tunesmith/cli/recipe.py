"""`tunesmith recipe`: the schema of recipes, and a recipe with every default."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tunesmith.cli.output import Json, Overrides, output

app = typer.Typer(help="Look at recipes: every option there is, and every default.")


@app.command()
def schema(as_json: Json = False) -> None:
    """Print the JSON schema of recipes, with the options of every task and technique.

    Editors complete and check a recipe with it.

    \b
    Examples:
      tunesmith recipe schema > recipe.schema.json
      then, as the first line of a recipe:
      # yaml-language-server: $schema=recipe.schema.json
    """
    with output(as_json) as out:
        from tunesmith.cli.contracts.files import RecipeSchemaDocument
        from tunesmith.recipes.json_schema import recipe_schema

        made = recipe_schema()
        out.emit(RecipeSchemaDocument(recipe_schema=made))
        out.line(json.dumps(made, indent=2))


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Print a recipe as it will be used: checked, overridden, with every default.

    \b
    Examples:
      tunesmith recipe show recipe.yaml
      tunesmith recipe show recipe.yaml --set technique.rank=8
    """
    with output(as_json) as out:
        from tunesmith.cli.contracts.files import RecipeDocument
        from tunesmith.recipes.load import load_recipe

        loaded = load_recipe(recipe, overrides or ())
        out.emit(RecipeDocument(recipe=loaded.model_dump()))
        out.line(loaded.to_yaml().rstrip("\n"))
