"""`tunesmith plan`: what training would take with each technique, here and on other devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.output import Json, Output, Overrides, output

if TYPE_CHECKING:
    from tunesmith.cli.contracts.plan import DevicePlanDetails, PlanDocument, TechniquePlanDetails

_PARTS = ("process", "weights", "gradients", "optimizer", "activations", "temporary")


def plan(
    recipe: Annotated[str, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")],
    technique: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this technique beside the recipe's own; may be given several times.",
            metavar="NAME",
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Say what training would take with every technique, side by side. Trains and writes nothing.

    What learns, the memory of a step by what it is for, time and tokens/s from two first steps on
    this machine, and the largest micro-batch that fits here and on devices of 24, 80 and 141 GB.
    The recipe's own technique has the recipe's options, the others their defaults. Each is prepared
    in a process of its own, which takes some seconds. Of a model whose weights are not here, its
    configuration is enough: nothing large is fetched or made.

    \b
    Examples:
      tunesmith plan recipe.yaml
      tunesmith plan recipe.yaml --technique full --technique lora
      tunesmith plan recipe.yaml --set training.tokens_per_batch=512 --json
    """
    with output(as_json) as out:
        from tunesmith import api
        from tunesmith.cli.contracts.plan import PlanDocument

        found = api.plan_training(
            recipe, overrides=overrides or (), techniques=technique or (), console=out.console
        )
        document = PlanDocument.model_validate(found)
        out.emit(document)
        _describe(document, out)


def _describe(found: PlanDocument, out: Output) -> None:
    from tunesmith.evidence.figures import count

    say = out.result
    say.note(
        f"{found.model}, {found.task}: {count(found.tokens)} tokens to learn from, in micro-batches"
        f" of at most {count(found.micro_batch)}."
    )
    if not found.weights:
        say.note(
            "Its weights are not on this machine and are not needed: its shape was planned. Times"
            " are the least, by the rate that `tunesmith bench hardware` measured."
        )
    if not found.tokenizer:
        say.note("It has no tokenizer: a token is taken to be four characters long.")
    possible = [row for row in found.techniques if row.refused is None]
    say.table(
        "On this machine",
        ["technique", "learns", "peak", *_PARTS, "time", "tokens/s"],
        [_here(row) for row in possible],
    )
    say.table(
        "Largest micro-batch in tokens (with every layer computed twice)",
        ["technique", *(device.device for device in possible[0].devices)],
        [[row.technique, *map(_largest, row.devices)] for row in possible],
    )
    for row in found.techniques:
        if row.refused is not None:
            say.note(f"{row.technique}: {row.refused}")


def _here(row: TechniquePlanDetails) -> list[str]:
    from tunesmith.evidence.figures import count, duration, size

    return [
        row.technique,
        count(row.trainable),
        size(row.peak),
        *(size(row.memory[part]) for part in _PARTS),
        "–" if row.seconds is None else duration(row.seconds),
        "–" if row.tokens_per_second is None else count(round(row.tokens_per_second)),
    ]


def _largest(device: DevicePlanDetails) -> str:
    from tunesmith.evidence.figures import count

    if device.largest_twice is None:
        return "–" if device.largest is None else count(device.largest)
    plain = "–" if device.largest is None else count(device.largest)
    return f"{plain} ({count(device.largest_twice)})"
